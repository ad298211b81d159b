"""A rectangle of batch rows and heads as blocks of float32 or float64: views where the input allows, else scratch.

A lane is one head of one batch row. Its tokens lie in whole blocks: `front` tokens first, filled up to whole
blocks, then the others, filled up at the end. Most inputs need no filling, and then nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.ops.tiles import Workspace

SCRATCH_ROWS = 8192
"""Tokens that are copied at a time where the input cannot be viewed: 2 MiB at head_dim 64."""


@dataclass(frozen=True)
class Layout:
    """Where `length` tokens lie in blocks of `block` rows, when the first `front` fill blocks of their own."""

    block: int
    length: int
    front: int = 0

    @property
    def front_blocks(self) -> int:
        """Blocks of the first `front` tokens."""
        return -(-min(self.front, self.length) // self.block)

    @property
    def blocks(self) -> int:
        """All blocks of a lane."""
        return self.front_blocks - (-max(self.length - self.front, 0) // self.block)

    @property
    def rows(self) -> int:
        """Rows of a lane, filling included."""
        return self.blocks * self.block

    @property
    def whole(self) -> bool:
        """Nothing is filled up."""
        return self.rows == self.length

    def stretches(self) -> Iterator[tuple[slice, slice]]:
        """(tokens, rows) of the stretches that lie in one piece."""
        first = min(self.front, self.length)
        if first:
            yield slice(0, first), slice(0, first)
        if self.length > first:
            start = self.front_blocks * self.block
            yield slice(first, self.length), slice(start, start + self.length - first)


@dataclass(frozen=True)
class Lanes:
    """Batch rows `batch` and heads `heads` of `[B, H, N, D]` tensors, in blocks of `layout`."""

    batch: slice
    heads: slice
    layout: Layout
    space: Workspace

    @property
    def count(self) -> int:
        """Lanes: batch rows times heads."""
        return int((self.batch.stop - self.batch.start) * (self.heads.stop - self.heads.start))

    def _part(self, x: Tensor) -> Tensor:
        return x[self.batch, self.heads, : self.layout.length]

    def _viewable(self, part: Tensor) -> bool:
        return self.layout.whole and part.dtype == self.space.dtype and part.is_contiguous()

    def load(self, x: Tensor, name: str, drop: Tensor | None = None) -> Tensor:
        """`[B, H, N, D]` -> this part of it as `[lanes, rows, D]`; filling, and tokens in `drop` `[B, N]`, are 0.

        A view of x where x allows, else a copy in the workspace under `name`.
        """
        part = self._part(x)
        if drop is None and self._viewable(part):
            return part.view(self.count, self.layout.rows, -1)
        held = self.space.take(name, *part.shape[:2], self.layout.rows, part.shape[3])
        if not self.layout.whole:
            held.zero_()
        for tokens, rows in self.layout.stretches():
            held[:, :, rows].copy_(part[:, :, tokens])
            if drop is not None:
                held[:, :, rows].masked_fill_(drop[self.batch, None, tokens, None], 0.0)
        return held.view(self.count, self.layout.rows, -1)

    def target(self, x: Tensor, name: str) -> Tensor:
        """`[lanes, rows, D]` to write what belongs into this part of x: x's own memory if it fits, else zeros."""
        part = self._part(x)
        if self._viewable(part):
            return part.view(self.count, self.layout.rows, -1)
        return self.space.take(name, self.count, self.layout.rows, x.shape[3]).zero_()

    def store(self, held: Tensor, x: Tensor) -> None:
        """Put a `target` into x, which it may already be."""
        part = self._part(x)
        if self._viewable(part):
            return
        held = held.view(*part.shape[:2], self.layout.rows, -1)
        for tokens, rows in self.layout.stretches():
            part[:, :, tokens] = held[:, :, rows]

    def bias(self, padding: Tensor | None) -> Tensor | None:
        """`[lanes, rows]`, -inf at filling and at padding bool `[B, N]`, 0 elsewhere; None if 0 everywhere."""
        if padding is None and self.layout.whole:
            return None
        size = (self.batch.stop - self.batch.start, self.layout.rows)
        bias = torch.full(size, -torch.inf, device=self.space.device, dtype=self.space.dtype)
        for tokens, rows in self.layout.stretches():
            bias[:, rows] = 0.0
            if padding is not None:
                bias[:, rows].masked_fill_(padding[self.batch, tokens], -torch.inf)
        heads = self.heads.stop - self.heads.start
        return bias.repeat_interleave(heads, dim=0)


def rectangles(batch: slice, layout: Layout, inputs: tuple[Tensor, ...], space: Workspace) -> Iterator[Lanes]:
    """These batch rows of all heads: at once where every input can be viewed, else as many as fit the scratch."""
    heads = inputs[0].shape[1]
    every = Lanes(batch, slice(0, heads), layout, space)
    lanes = max(1, SCRATCH_ROWS // layout.rows)
    if lanes >= every.count or all(every._viewable(every._part(x)) for x in inputs):
        yield every
    elif lanes >= heads:
        for first in range(batch.start, batch.stop, lanes // heads):
            yield Lanes(slice(first, min(first + lanes // heads, batch.stop)), slice(0, heads), layout, space)
    else:
        for row in range(batch.start, batch.stop):
            for head in range(0, heads, lanes):
                yield Lanes(slice(row, row + 1), slice(head, min(head + lanes, heads)), layout, space)
