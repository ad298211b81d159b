"""The devices: whether one is there, waiting for it, and its clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch


def why_unavailable(device: str) -> str | None:
    """Why `device` cannot be used here, or None if it can."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return None
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(kind)
    if backend is None:
        return f"hardware.device={device}: expected cpu, cuda, cuda:INDEX or mps"
    if not backend.is_available():
        return f"hardware.device={device}: torch {torch.__version__} finds no such device on this machine"
    return None


def gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` names each GPU that `hardware.device=cuda` may mean here, in CUDA's order."""
    count = torch.cuda.device_count()
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = range(count) if told is None else told.split(",")[:count]
    return [str(name).strip() for name in names]


def board(device: str) -> str:
    """What tells the very device from others of its kind, whatever number it goes by: `cuda-GPU-4a...`, `cpu`."""
    kind = device.partition(":")[0]
    return f"cuda-{torch.cuda.get_device_properties(device).uuid}" if kind == "cuda" else kind


def synchronise(device: str) -> None:
    """Wait until all work queued on the device is done. Every clock reading goes through here."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def clock(
    device: str, wait: Callable[[str], None] = synchronise, read: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """A wall clock in seconds that first waits for the device."""

    def now() -> float:
        wait(device)
        return read()

    return now
