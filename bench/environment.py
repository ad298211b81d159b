"""The machine and the software a result was measured in, and the id that rows of one environment share."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

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
        "container_cpus": _quota(_read(_CGROUP / "cpu.max")),
        "container_memory_mib": _mebibytes(_read(_CGROUP / "memory.max")),
        "memory_mib": str(psutil.virtual_memory().total // 2**20),
        "os": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        "parallel": _parallel(),
        "torch_commit": str(torch.version.git_version),
        "device": device,
    }
    for package in PACKAGES:
        found[f"{package}_version"] = _version(package)
    if device.startswith("cuda") and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["gpu_memory_mib"] = str(properties.total_memory // 2**20)
        found["cuda"] = str(torch.version.cuda)
        found["driver"] = _driver()
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    for variable in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD", "OMP_PROC_BIND", "KMP_AFFINITY"):
        if variable in os.environ:
            found[f"env_{variable}"] = os.environ[variable]
    return found


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


def _driver() -> str:
    """The version in the first line of what NVIDIA's kernel module says of itself."""
    words = _read(Path("/proc/driver/nvidia/version")).splitlines()[0].split()
    return next((word for word in words if word[:1].isdecimal() and "." in word), UNKNOWN)


def _blas() -> str:
    return "mkl" if torch.backends.mkl.is_available() else "other"  # type: ignore[no-untyped-call]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
