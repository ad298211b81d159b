"""Peak memory of one call, beyond what inputs and parameters hold.

CUDA: the caching allocator's own peak. CPU on Linux with glibc: the process's high-water mark of resident
memory, reset just before the call, with malloc's mmap threshold fixed so that freed memory goes back to the
system and later allocations are seen; a first call has loaded the library code that would count as well.
Elsewhere: the byte count of torch's profiler, which sees torch's allocator only. Must run in a process of its
own: the threshold makes small operations slower.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.case import Case

MIB = 2**20
M_MMAP_THRESHOLD = -3
THRESHOLD_BYTES = 65536
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(case: Case, device: str, way: str) -> dict[str, Any]:
    """`peak_mib`, `peak_way`, `inputs_mib`, `parameters_mib` of one call, and the parts of the peak."""
    chosen = choose(device, way)
    peak = {"cuda_allocator": _cuda, "high_water": _high_water, "profiler": _profiler}[chosen]
    prepare(chosen)
    case.call()
    peak_mib = peak(case.call) / MIB
    return {
        "peak_mib": peak_mib,
        **_parts(case, chosen, peak_mib),
        "peak_way": chosen,
        "inputs_mib": case.inputs_bytes / MIB,
        "parameters_mib": case.parameters_bytes / MIB,
        "state_mib": None if case.state_bytes is None else case.state_bytes / MIB,
        "backend": case.backend,
    }


def _parts(case: Case, way: str, peak_mib: float) -> dict[str, Any]:
    """`activations_mib`, what the forward leaves for the backward, and `temporary_mib`, the rest of the peak."""
    if case.state_bytes is not None:
        return {"memory_note": "no activations: a decoding step keeps a state, and nothing for a backward"}
    if case.forward is None:
        return {"memory_note": "no activations: nothing is kept for a backward", "temporary_mib": peak_mib}
    kept = min(held(case.forward, way) / MIB, peak_mib)
    return {"activations_mib": kept, "temporary_mib": peak_mib - kept}


def held(forward: Callable[[], object], way: str) -> float:
    """Bytes that are there after a forward and would not be without it, its result still referred to."""
    if way == "profiler":
        return _counted(forward)[1]
    before = _now(way)
    result = forward()
    after = _now(way)
    del result
    return max(after - before, 0)


def _now(way: str) -> float:
    """Bytes held at this moment."""
    if way == "cuda_allocator":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    return _resident_bytes("VmRSS")


def choose(device: str, way: str) -> str:
    """The way that `auto` stands for: the allocator on CUDA, the high-water mark where the system has one."""
    if device.startswith("cuda"):
        return "cuda_allocator"
    if way != "auto":
        return way
    return "high_water" if platform.libc_ver()[0] == "glibc" and CLEAR.exists() else "profiler"


def prepare(way: str) -> None:
    """Fix malloc's threshold where the high-water mark will be read."""
    if way == "high_water":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)


def _resident_bytes(field: str) -> int:
    """VmRSS or VmHWM of this process."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {field}")


def _high_water(call: Callable[[], object]) -> float:
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident_bytes("VmRSS")
    CLEAR.write_text("5")  # reset VmHWM to VmRSS
    result = call()  # the output counts, so it must live until the mark is read
    peak = _resident_bytes("VmHWM")
    del result
    return max(peak - before, 0)


def _profiler(call: Callable[[], object]) -> float:
    return _counted(call)[0]


def _counted(call: Callable[[], object]) -> tuple[float, float]:
    """(most bytes at a time, bytes held at the end), both beyond what was there before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = call()
    current = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            current += event.nbytes()
            peak = max(peak, current)
    del result
    return peak, current


def _cuda(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before
