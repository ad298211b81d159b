"""Energy of a call, where the machine counts it: RAPL for CPUs (Linux's powercap), NVML for NVIDIA GPUs.

The counters are of whole packages or boards, whatever runs on them, idle power included. Method and baseline take
turns as they do in latency rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch

from bench.case import Case

POWERCAP = Path("/sys/class/powercap")

#: Seconds of calls between two readings: counters move once a millisecond (RAPL) or a tenth of a second (NVML).
BLOCK_S = 1.0
ROUNDS = 3


class Unreadable(Exception):
    """There is no counter that could be read; the message says why."""


class Meter(Protocol):
    """A counter of energy."""

    source: str

    def lap(self) -> float:
        """Joules since the last lap, or since it was made."""


class Rapl:
    """The packages of all sockets, and their memory where it is counted apart: `rapl:package-0+dram`."""

    def __init__(self, root: Path | None = None) -> None:
        root = POWERCAP if root is None else root
        named = {path: (path / "name").read_text().strip() for path in sorted(root.glob("intel-rapl:*"))}
        self.domains = [path for path, name in named.items() if name.startswith("package") or name == "dram"]
        if not self.domains:
            raise Unreadable(f"{root} counts no energy: no RAPL on this machine, or a hypervisor hides it")
        self.ranges = [int((path / "max_energy_range_uj").read_text()) for path in self.domains]
        self.source = "rapl:" + "+".join(dict.fromkeys(named[path] for path in self.domains))
        self.mark = self._read()

    def _read(self) -> list[int]:
        try:
            return [int((path / "energy_uj").read_text()) for path in self.domains]
        except PermissionError as error:
            raise Unreadable(f"{error.filename} may be read by root only: chmod a+r {error.filename}") from error

    def lap(self) -> float:
        """See `Meter`; counters begin anew at their range."""
        before, self.mark = self.mark, self._read()
        return sum((b - a) % (r + 1) for a, b, r in zip(before, self.mark, self.ranges, strict=True)) / 1e6


class Nvml:
    """The board of one GPU."""

    def __init__(self, device: str) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise Unreadable("energy of a GPU needs nvidia-ml-py: pip install 'attnbench[energy]'") from error
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            self.source = "nvml"
            self.mark = self._read()
        except pynvml.NVMLError as error:
            raise Unreadable(f"NVML counts no energy of {device}: {error}") from error

    def _read(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))

    def lap(self) -> float:
        """See `Meter`."""
        before, self.mark = self.mark, self._read()
        return (self.mark - before) / 1e3


def meter(device: str) -> Meter:
    """The counter of a device. Raises Unreadable."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        return Nvml(device)
    if kind == "cpu":
        return Rapl()
    raise Unreadable(f"no counter of energy is known for hardware.device={device}")


def measure(method: Case, baseline: Case, device: str, clock: Callable[[], float]) -> dict[str, Any]:
    """`energy_j`, `baseline_energy_j`: joules a call, the median of a few rounds; or `energy_note`, why not."""
    try:
        counter = meter(device)
    except Unreadable as error:
        return {"energy_note": str(error)}
    found: dict[str, list[float]] = {"energy_j": [], "baseline_energy_j": []}
    subjects = {"energy_j": method, "baseline_energy_j": baseline}
    for case in subjects.values():
        case.call()
    for index in range(ROUNDS):
        for name in list(subjects) if index % 2 == 0 else reversed(subjects):
            found[name].append(_block(subjects[name], counter, clock))
    energies = {name: median(joules) for name, joules in found.items()}
    return {**energies, "energy_source": counter.source, "backend": method.backend}


def _block(case: Case, counter: Meter, clock: Callable[[], float]) -> float:
    """Joules a call over at least `BLOCK_S` seconds of them; the clock waits for the device."""
    calls, start = 0, clock()
    counter.lap()
    while calls == 0 or clock() - start < BLOCK_S:
        case.call()
        calls += 1
    return counter.lap() / calls
