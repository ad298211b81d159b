"""The processes of one training run, and what they exchange.

A batch is split over them and their gradients are added up in one call a step, so that n processes compute
what one does but for rounding. DistributedDataParallel is not used: it regroups gradients after the first step
it sees, hence rounds otherwise after a resume, and it has to be told of parameters that a batch leaves unused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Process `rank` of `size`, working on `device`; by itself unless told otherwise."""

    device: str = "cpu"
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def share(self, index: Tensor) -> Tensor:
        """This process's part of `[n]` rows; parts differ by one row at most."""
        return index.tensor_split(self.size)[self.rank] if self.size > 1 else index

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes; the same bits in all of them."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def gathered(self, value: T) -> list[T]:
        """The value of each process, a plain object, in all."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; one that is missing counts as zeros."""
        if self.size == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        pieces = torch.split(flat, [grad.numel() for grad in grads])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.dtype)

    def broadcast(self, content: bytes) -> bytes:
        """The first process's bytes, in all."""
        if self.size == 1:
            return content
        size = torch.tensor([len(content)], device=self.device)
        dist.broadcast(size, 0)
        buffer = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        if self.leads and content:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
        dist.broadcast(buffer, 0)
        return buffer.cpu().numpy().tobytes()


@contextmanager
def joined(processes: int, device: str, rendezvous: str = "") -> Iterator[Group]:
    """The group of a run. More than one process meet under the name `rendezvous` at torchrun's address.

    On CUDA each takes the device of its local rank.
    """
    if processes == 1:
        yield Group(device)
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    meeting = dist.TCPStore(address, port, is_master=False)  # type: ignore[attr-defined]
    store = dist.PrefixStore(rendezvous, meeting)  # type: ignore[attr-defined]
    rank = int(os.environ["RANK"])
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes)
    try:
        yield Group(device, rank, processes)
    finally:
        dist.destroy_process_group()
