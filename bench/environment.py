"""The machine and the software a result was measured in, and the id that rows of one environment share."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.cell import digest
from bench.resolve import available_cores

#: Packages whose versions can change a measurement.
PACKAGES = ("torch", "numpy", "hydra-core", "datasets", "scipy")

_SYSTEM = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
UNKNOWN = "unknown"


def capture(device: str) -> dict[str, str]:
    """Name -> value, all text. Nothing that changes from minute to minute, so that its hash identifies."""
    found = {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "cores": str(available_cores()),
        "physical_cores": str(psutil.cpu_count(logical=False)),
        "caches": _caches(),
        "governor": _read(_SYSTEM / "cpu0/cpufreq/scaling_governor"),
        "highest_clock_khz": _read(_SYSTEM / "cpu0/cpufreq/cpuinfo_max_freq"),
        "container_cpus": _quota(_read(_CGROUP / "cpu.max")),
        "container_memory_mib": _mebibytes(_read(_CGROUP / "memory.max")),
        "memory_mib": str(psutil.virtual_memory().total // 2**20),
        "os": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        "math_libraries": _math_libraries(torch.__config__.show()),
        "parallel": _parallel(),
        "torch_commit": str(torch.version.git_version),
        "device": device,
    }
    for package in PACKAGES:
        found[f"{package}_version"] = _version(package)
    if device.startswith("cuda") and torch.cuda.is_available():
        found |= _gpu(torch.cuda.get_device_properties(device))
        found["cuda"] = str(torch.version.cuda)
        found["driver"] = _driver()
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    for variable in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD", "OMP_PROC_BIND", "KMP_AFFINITY"):
        if variable in os.environ:
            found[f"env_{variable}"] = os.environ[variable]
    return found


@cache
def commit() -> str | None:
    """The commit of this harness, `e29c008f1b2a` or `e29c008f1b2a-dirty`; None where it is no git checkout.

    Each row has its own and env_id none: a commit that changes no source behind a cell does not part its rows.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout of another user
        return None


def env_id(environment: dict[str, str]) -> str:
    """The id of an environment: the hash of all it says."""
    return digest(environment)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # another system, or not allowed
        return UNKNOWN


def _caches() -> str:
    """`L1d 48K, L1i 32K, L2 2048K, L3 107520K`, of the first core."""
    found = []
    for folder in sorted((_SYSTEM / "cpu0/cache").glob("index*")):
        kind = {"Data": "d", "Instruction": "i"}.get(_read(folder / "type"), "")
        found.append(f"L{_read(folder / 'level')}{kind} {_read(folder / 'size')}")
    return ", ".join(found) or UNKNOWN


def _quota(text: str) -> str:
    """CPUs' worth of time that a container may use, from cgroup's `quota period` in microseconds."""
    match text.split():
        case [quota, period] if quota.isdecimal():
            return f"{int(quota) / int(period):g}"
        case ["max", _]:
            return "all"
    return UNKNOWN


def _mebibytes(text: str) -> str:
    return str(int(text) // 2**20) if text.isdecimal() else "all" if text == "max" else UNKNOWN


def _parallel() -> str:
    """What torch's threads are: `OpenMP`, say."""
    for line in torch.__config__.parallel_info().splitlines():
        if line.startswith("ATen parallel backend"):
            return line.partition(":")[2].strip()
    return UNKNOWN


def _gpu(properties: Any) -> dict[str, str]:
    """What CUDA says of a GPU; the clocks are its highest, for those of the moment identify nothing."""
    told = {
        "gpu": "name",
        "gpu_processors": "multi_processor_count",
        "gpu_highest_clock_khz": "clock_rate",
        "gpu_highest_memory_clock_khz": "memory_clock_rate",
    }
    found = {key: str(getattr(properties, name, UNKNOWN)) for key, name in told.items()}
    return found | {"gpu_memory_mib": str(properties.total_memory // 2**20)}


def _driver() -> str:
    """The version in the first line of what NVIDIA's kernel module says of itself."""
    words = _read(Path("/proc/driver/nvidia/version")).splitlines()[0].split()
    return next((word for word in words if word[:1].isdecimal() and "." in word), UNKNOWN)


def _blas() -> str:
    return "mkl" if torch.backends.mkl.is_available() else "other"  # type: ignore[no-untyped-call]


def _math_libraries(built_with: str) -> str:
    """The versions of BLAS and of oneDNN (MKL-DNN) in what torch says of its build."""
    lines = [line.strip(" -") for line in built_with.splitlines()]
    found = [line for line in lines if line.startswith(("Intel(R) ", "OpenBLAS", "Accelerate"))]
    return "; ".join(line.partition(" (Git")[0].partition("-Product")[0] for line in found) or UNKNOWN


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
