"""What happens to logits between q k^T and the softmax: caps, biases by distance, and which pairs may attend.

The tiled algorithm asks for it one tile at a time, and skips a tile in which no pair may attend.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """The rows or columns `first`, ..., `last - 1`."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many."""
        return self.last - self.first

    def positions(self, device: torch.device) -> Tensor:
        """int64 `[size]`."""
        return torch.arange(self.first, self.last, device=device)


def spans(count: int, size: int) -> list[Span]:
    """`count` rows cut into pieces of `size`, the last one shorter."""
    return [Span(first, min(first + size, count)) for first in range(0, count, size)]


@dataclass(frozen=True)
class Scoring:
    """Logits from scaled products, in the order of the flash-attn packages: cap, bias, mask.

    Query i stands at position `offset + i` among the keys: 0 aligns causal masks top left (as torch's
    `is_causal`), `Nk - Nq` bottom right (as flash-attn from 2.1 on).
    """

    causal: bool = False
    offset: int = 0
    window: tuple[int, int] | None = None
    """Keys to the left and to the right that a query sees, besides its own: a sliding window."""
    softcap: float | None = None
    """c tanh(s / c) in place of s."""
    slopes: Tensor | None = None
    """`[H]`: a slope times the distance is taken off (ALiBi, Press et al. 2022, section 3)."""
    padding: Tensor | None = None
    """bool `[B, Nk]`, True at keys that nobody attends."""
    boundaries: Sequence[int] | None = None
    """0, ..., N: sequences packed end to end; a pair attends within one sequence only."""
    blocks: Tensor | None = None
    """bool `[ceil(Nq / block_q), ceil(Nk / block_k)]`, True at tiles that are computed (block-sparse)."""

    def visible(self, rows: Span, cols: Span) -> bool:
        """Whether any pair of the tile can attend; padding is not looked at. The blocks are the caller's."""
        low, high = self._reach(rows)
        if cols.last <= low or cols.first > high:
            return False
        if self.boundaries is None:
            return True
        first, last = self._sequences(rows)
        return cols.first < self.boundaries[last + 1] and cols.last > self.boundaries[first]

    def covered(self, rows: Span, cols: Span) -> bool:
        """Whether all pairs of the tile attend, padding aside."""
        right = self._right()
        if right is not None and cols.last - 1 > self.offset + rows.first + right:
            return False
        if self.window is not None and cols.first < self.offset + rows.last - 1 - self.window[0]:
            return False
        if self.boundaries is None:
            return True
        first, last = self._sequences(rows)
        return first == last and (first, last) == self._sequences(cols)

    def allowed(self, rows: Span, cols: Span, device: torch.device) -> Tensor | None:
        """bool, broadcast to `[B, H, rows, cols]`, True at pairs that attend; None if all do."""
        mask = None if self.padding is None else ~self.padding[:, None, None, cols.first : cols.last]
        if self.covered(rows, cols):
            return mask
        i, j = rows.positions(device)[:, None] + self.offset, cols.positions(device)
        near = torch.ones(rows.size, cols.size, dtype=torch.bool, device=device)
        right = self._right()
        if right is not None:
            near &= j <= i + right
        if self.window is not None:
            near &= j >= i - self.window[0]
        if self.boundaries is not None:
            cuts = torch.tensor(self.boundaries, device=device)
            near &= torch.bucketize(i, cuts, right=True) == torch.bucketize(j, cuts, right=True)
        return near if mask is None else mask & near

    def apply_(self, scores: Tensor, rows: Span, cols: Span, unit: float = 1.0) -> Tensor | None:
        """Turn a tile of scaled products `[B, H, rows, cols]`, held in units of `unit`, into logits in place.

        Returns the derivative of the logits by the products, or None where it is 1. Pairs that do not attend
        get -inf.
        """
        slope = None
        if self.softcap is not None:
            scores.mul_(1 / (unit * self.softcap)).tanh_()
            slope = 1 - scores.square()
            scores.mul_(self.softcap * unit)
        if self.slopes is not None:
            i, j = rows.positions(scores.device)[:, None] + self.offset, cols.positions(scores.device)
            distance = (i - j).abs().to(scores.dtype)
            scores.sub_(self.slopes.to(scores.dtype)[:, None, None] * (distance * unit))
        allowed = self.allowed(rows, cols, scores.device)
        if allowed is not None:
            scores.masked_fill_(~allowed, float("-inf"))
        return slope

    def _right(self) -> int | None:
        """Keys after its own that a query sees; None for all."""
        if self.causal:
            return 0
        return None if self.window is None else self.window[1]

    def _reach(self, rows: Span) -> tuple[int, float]:
        """First and last key position that any of the rows sees."""
        right = self._right()
        low = 0 if self.window is None else self.offset + rows.first - self.window[0]
        return low, float("inf") if right is None else self.offset + rows.last - 1 + right

    def _sequences(self, span: Span) -> tuple[int, int]:
        """Index of the packed sequence of the first and of the last row."""
        assert self.boundaries is not None
        return bisect_right(self.boundaries, span.first) - 1, bisect_right(self.boundaries, span.last - 1) - 1
