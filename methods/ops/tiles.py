"""Overlapping stretches of a sequence as views, and the softmax attention of many small tiles at once.

Windows, blocks and hash chunks are all "this tile of queries sees that tile of keys". Tiles overlap in memory
(nothing is copied), and the forward returns its logsumexp, so that partial results merge exactly and a backward
can recompute the weights from it (Dao 2023, Algorithm 2), a cache-sized group of tiles at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.ops import kernels

LOG2_E = math.log2(math.e)

CACHED_SCORES = 1 << 20
"""Scores that a CPU holds at a time: 4 MiB in float32, which caches keep; more is fewer calls, yet slower."""

DEVICE_SCORES = 1 << 26
"""Scores that an accelerator handles at a time, where launches cost more than memory traffic."""


@dataclass(frozen=True)
class Tiles:
    """`count` stretches of `size` rows, the i-th from row `start + i * step`; they may overlap."""

    start: int
    step: int
    size: int
    count: int

    def view(self, x: Tensor) -> Tensor:
        """`[N, D]` -> `[count, size, D]`, a view of x."""
        rows, columns = x.stride()
        offset = x.storage_offset() + self.start * rows
        return x.as_strided((self.count, self.size, x.shape[1]), (self.step * rows, rows, columns), offset)

    def add(self, x: Tensor, values: Tensor) -> None:
        """x `[N, D]` += values `[count, size, D]`, each value where its row lies; overlaps add up."""
        if self.count == 1 or self.step >= self.size:
            self.view(x).add_(values)
            return
        for low in range(0, self.size, self.step):  # parts of one step do not overlap each other
            high = min(low + self.step, self.size)
            Tiles(self.start + low, self.step, high - low, self.count).view(x).add_(values[:, low:high])

    def part(self, first: int, last: int) -> Tiles:
        """The tiles from `first` up to but without `last`."""
        return Tiles(self.start + first * self.step, self.step, self.size, last - first)


def scores_at_once(device: torch.device, arrays: int = 2) -> int:
    """Scores handled at a time where so many arrays of them are alive: 2 in a backward, weights and slopes."""
    return CACHED_SCORES // arrays if device.type == "cpu" else DEVICE_SCORES


def groups(count: int, scores_per_tile: int, device: torch.device, arrays: int = 2) -> Iterator[tuple[int, int]]:
    """(first, last) of groups of tiles whose scores fit the cache; see `scores_at_once`."""
    size = max(1, scores_at_once(device, arrays) // max(1, scores_per_tile))
    for first in range(0, count, size):
        yield first, min(first + size, count)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale q k^T + bias) v for tiles, and its logsumexp; no gradient.

    q `[T, m, D]`, k and v `[T, n, D]` (any strides, last one 1), bias broadcast to `[T, m, n]` or None, -inf
    where a pair is not allowed. Returns out `[T, m, D]` in q's dtype and lse `[T, m]` float32 or float64;
    a row with nothing allowed has out 0 and lse -inf.
    """
    return kernels.softmax_attention(q, k, v, bias, scale)


class Workspace:
    """Scratch tensors by name, kept from one group of tiles to the next: fresh pages cost more than arithmetic."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape, in memory that `name` had before if there is enough."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = self._held[name] = torch.empty(size, device=self.device, dtype=self.dtype)
        return held[:size].view(shape)


def exp2_(x: Tensor) -> Tensor:
    """2^x in place; 0 where neither it nor its product with a slope could be held as a normal number.

    On CPUs exp2 has no slow path at -inf, which torch's exp has, but products of denormals are slow.
    """
    return F.threshold(x, math.log2(torch.finfo(x.dtype).tiny) + 26, -math.inf, inplace=True).exp2_()


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Two partial softmax results over disjoint keys -> that over their union: out `[..., D]`, lse `[...]`.

    Exact, associative and commutative (Dao et al. 2022, section 3.1); a part without mass (lse -inf) weighs 0.
    """
    total = torch.logaddexp(lse, other_lse)
    safe = total.masked_fill(total.isneginf(), 0.0)
    mixed = out * (lse - safe).exp()[..., None] + other * (other_lse - safe).exp()[..., None]
    return mixed.to(out.dtype), total
