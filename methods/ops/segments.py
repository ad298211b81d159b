"""A sequence cut into segments of nearly equal length: the cut, the means, and the gradient of the means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """`count` neighbouring segments of `width` tokens each, the first from token `start` on."""

    start: int
    width: int
    count: int

    def view(self, x: Tensor) -> Tensor:
        """`[..., N, D]` -> `[..., count, width, D]`, a view of x."""
        rows = x.narrow(-2, self.start, self.count * self.width)
        return rows.view(*x.shape[:-2], self.count, self.width, x.shape[-1])


def runs(length: int, count: int, upto: int | None = None) -> list[Run]:
    """`length` tokens in `count <= length` segments whose lengths differ by at most one, the shorter ones first.

    `upto` keeps the tokens before it only; the segment that it cuts is a run of its own.
    """
    stop = length if upto is None else upto
    width, longer = divmod(length, count)
    found, start = [], 0
    for size, number in ((width, count - longer), (width + 1, longer)):
        whole = min(number, max(0, stop - start) // size)
        if whole:
            found.append(Run(start, size, whole))
        rest = stop - start - whole * size
        if whole < number and rest > 0:
            found.append(Run(start + whole * size, rest, 1))
        start += number * size
    return found


class Segments:
    """At most `count` segments of the real tokens of every row, which is cut as if its pads were not there.

    A row with fewer real tokens than `count` has one token a segment; the segments left over are `empty`, bool
    `[B, count]` (None without padding). Tensors are `[T, N, D]` with T = batch x heads.
    """

    def __init__(self, n: int, count: int, padding: Tensor | None, heads: int) -> None:
        self.count = min(count, n)
        self.runs = runs(n, self.count)
        self.empty: Tensor | None = None
        if padding is None:
            return
        real = ~padding
        tokens = real.sum(1, keepdim=True)
        used = tokens.clamp(1, self.count)
        width = (tokens // used).clamp(min=1)
        short = used - (tokens - width * used).clamp(min=0)
        rank, cut = real.cumsum(1) - 1, short * width
        own = torch.where(rank < cut, rank // width, short + (rank - cut) // (width + 1))
        own = own.masked_fill(padding, self.count)
        sizes = real.new_zeros(len(real), self.count + 1, dtype=torch.long)
        sizes.scatter_add_(1, own, torch.ones_like(own))
        sizes = sizes[:, : self.count].repeat_interleave(heads, dim=0)
        self.empty = sizes[::heads] == 0
        first = torch.arange(len(sizes), device=own.device)[:, None]
        #: Of every token the row of its mean in `[T * (count + 1), D]`, whose last row a tile is for pads.
        self._rows = (own.repeat_interleave(heads, dim=0) + first * (self.count + 1)).flatten()
        self._real = real.repeat_interleave(heads, dim=0).flatten().nonzero()[:, 0]
        self._offsets = sizes.flatten().cumsum(0) - sizes.flatten()
        self._sizes = sizes.clamp(min=1)[..., None]

    def means(self, x: Tensor) -> Tensor:
        """`[T, N, D]` -> `[T, count, D]`; what pads hold is not read, an empty segment is 0."""
        if self.empty is None:
            parts = [run.view(x).mean(-2) for run in self.runs]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        bags = F.embedding_bag(self._real, x.reshape(-1, x.shape[-1]), self._offsets, mode="sum")
        return bags.view(len(x), self.count, -1) / self._sizes

    def add_gradient(self, total: Tensor, grad: Tensor) -> None:
        """total `[T, N, D]`, contiguous, += the gradient of `means` at grad `[T, count, D]`."""
        if self.empty is not None:
            shares = F.pad(grad / self._sizes, (0, 0, 0, 1)).flatten(0, 1)
            total.add_(shares.index_select(0, self._rows).view_as(total))
            return
        first = 0
        for run in self.runs:
            run.view(total).add_(grad[:, first : first + run.count, None], alpha=1 / run.width)
            first += run.count
