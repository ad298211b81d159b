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


def capture(device: str) -> dict[str, str]:
    """Name -> value, all text. Nothing that changes from minute to minute, so that its hash identifies."""
    found = {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "cores": str(available_cores()),
        "memory_mib": str(psutil.virtual_memory().total // 2**20),
        "os": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        "device": device,
    }
    for package in PACKAGES:
        found[f"{package}_version"] = _version(package)
    if device.startswith("cuda") and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["gpu_memory_mib"] = str(properties.total_memory // 2**20)
        found["cuda"] = str(torch.version.cuda)
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


def _blas() -> str:
    return "mkl" if torch.backends.mkl.is_available() else "other"  # type: ignore[no-untyped-call]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
