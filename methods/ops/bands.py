"""The geometry of windows: which keys a query sees, and its cut into tiles that are views.

A band is cut into tiles: 64 rows against the rows that they reach, which overlap from tile to tile. Every row
is in one tile. The ends of the sequence make tiles of their own with a shorter reach, so that nothing is padded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.ops.tiles import Tiles, groups

TILE = 64
"""Rows of a tile: a band of width w costs 64 / w more than its area, and fewer would leave matrix units idle."""

LONG = 1 << 14
"""Rows of all heads of one sequence from which on a loop over sequences costs less than a copy to merge them."""


@dataclass(frozen=True)
class Band:
    """What a query sees: itself, `left` keys before it and `right` after it, each `dilation` from the next."""

    left: int
    right: int
    dilation: int = 1

    def holds(self, ahead: Tensor) -> Tensor:
        """bool: whether a key `ahead` positions after its query (negative: before it) is seen."""
        near = (ahead >= -self.left * self.dilation) & (ahead <= self.right * self.dilation)
        return near if self.dilation == 1 else near & (ahead % self.dilation == 0)


@dataclass(frozen=True)
class Heads:
    """Heads `first` up to but without `last`, which share a band."""

    first: int
    last: int
    band: Band


@dataclass(frozen=True)
class Pattern:
    """Which pairs attend."""

    heads: tuple[Heads, ...]
    causal: bool = False
    padding: Tensor | None = None
    """bool `[B, N]`, True at keys that nobody sees."""
    shared: Tensor | None = None
    """int64 `[B or 1, G]`: positions of keys that every row sees, subject to `causal` and `padding`."""
    used: Tensor | None = None
    """bool `[B or 1, G]`: which entries of `shared` count; None: all."""
    rows: bool = False
    """Whether the shared positions also attend every key."""

    @property
    def index(self) -> Tensor:
        """`shared`, where there is any."""
        assert self.shared is not None
        return self.shared

    def hidden(self, band: Band, n: int) -> Tensor:
        """bool `[B or 1, G, N]`: which queries see a shared key in the band already, or not at all."""
        ahead = self.index[..., None] - torch.arange(n, device=self.index.device)
        hidden = band.holds(ahead)
        if self.causal:
            hidden |= ahead > 0
        if self.padding is not None:
            hidden = hidden | self.padding.gather(1, self.index.expand(len(self.padding), -1))[..., None]
        return hidden if self.used is None else hidden | ~self.used[..., None]

    def unseen(self, n: int) -> Tensor | None:
        """bool `[B or 1, 1 or G, N]`: the keys that shared positions' rows do not see; None: they see all."""
        padded = None if self.padding is None else self.padding[:, None]
        if not self.causal:
            return padded
        future = torch.arange(n, device=self.index.device) > self.index[..., None]
        return future if padded is None else future | padded

    def places(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """(batch row, entry of `shared`, position), int64 `[K]` each, of all shared positions in use."""
        used = torch.ones_like(self.index, dtype=torch.bool) if self.used is None else self.used
        row, slot = used.expand(batch, -1).nonzero(as_tuple=True)
        return row, slot, self.index.expand(batch, -1)[row, slot]


@dataclass(frozen=True)
class Piece:
    """Tiles of one shape: several of one sequence, or the same one (`count` 1) of several sequences."""

    lanes: slice
    own: Tiles
    other: Tiles
    bias: Tensor
    """`[own.size, other.size]`, -inf outside the band."""

    def rows(self, x: Tensor) -> Tensor:
        """`[L, N, C]` -> the tiles' own rows `[T, own.size, C]`, a view."""
        return self._view(x, self.own)

    def reach(self, x: Tensor) -> Tensor:
        """`[L, N, C]` -> the rows that the tiles reach `[T, other.size, C]`, a view."""
        return self._view(x, self.other)

    def add_to_reach(self, x: Tensor, values: Tensor) -> None:
        """x `[L, N, C]` += values `[T, other.size, C]` where the tiles reach; overlaps add up."""
        if self.other.count > 1:
            self.other.add(x[self.lanes.start], values)
        else:
            self.reach(x).add_(values)

    def _view(self, x: Tensor, tiles: Tiles) -> Tensor:
        if tiles.count > 1:
            return tiles.view(x[self.lanes.start])
        return x[self.lanes, tiles.start : tiles.start + tiles.size]


def pieces(like: Tensor, left: int, right: int) -> Iterator[Piece]:
    """All rows of sequences `[L, n, C]`, each with the rows from `left` before to `right` after it."""
    lanes, n, _ = like.shape
    left, right, size = min(left, n - 1), min(right, n - 1), min(TILE, n)
    at = torch.arange(size + left + right, device=like.device) - torch.arange(size, device=like.device)[:, None]
    bias = torch.zeros(at.shape, device=like.device, dtype=like.dtype)
    bias.masked_fill_((at < 0) | (at > left + right), -math.inf)
    first, last = -(-left // size), (n - right) // size  # the tiles that reach no end
    if last - first < max(2, lanes):
        last = first  # few tiles of many sequences: one tile of all sequences at a time
    own = Tiles(first * size, size, size, last - first)
    other = Tiles(first * size - left, size, size + left + right, last - first)
    for lane in range(lanes):
        for a, z in groups(own.count, 2 * bias.numel(), like.device):
            yield Piece(slice(lane, lane + 1), own.part(a, z), other.part(a, z), bias)
    for start in (*range(0, first * size, size), *range(last * size, n, size)):
        rows = min(size, n - start)
        low, high = max(0, start - left), min(n, start + rows + right)
        cut = bias[:rows, low - start + left : high - start + left]
        for a, z in groups(lanes, 2 * cut.numel(), like.device):
            yield Piece(slice(a, z), Tiles(start, size, rows, 1), Tiles(low, size, high - low, 1), cut)


def pairs(n: int, band: Band) -> int:
    """Scores that `pieces` compute for one head of a sequence of n."""
    count = 0
    for residue in range(min(band.dilation, n)):
        rows = len(range(residue, n, band.dilation))
        for start in range(0, rows, TILE):
            size = min(TILE, rows - start)
            count += size * (min(rows, start + size + band.right) - max(0, start - band.left))
    return count


def merges(x: Tensor) -> bool:
    """Whether the first two dimensions of `[B, H, N, C]` are one in memory."""
    return x.shape[0] == 1 or x.shape[1] == 1 or x.stride(0) == x.shape[1] * x.stride(1)


def worth_merging(x: Tensor) -> bool:
    """Whether a copy of `[B, H, N, C]` costs less than a loop over its many short sequences."""
    return x.shape[1] * x.shape[2] < LONG


def lanes(*xs: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
    """Tensors `[B, H, N, C]` as `[L, N, C]` views, with the batch rows in them: all, or else each on its own."""
    if all(merges(x) for x in xs):
        yield slice(None), [x.flatten(0, 1) for x in xs]
    else:
        for b in range(xs[0].shape[0]):
            yield slice(b, b + 1), [x[b] for x in xs]


def strands(heads: Sequence[Heads], *xs: Tensor) -> Iterator[tuple[Band, list[Tensor]]]:
    """Tensors `[B, H, N, C]` as `[L, n, C]` views in which bands are dense: each residue of the dilation apart."""
    for own in heads:
        for residue in range(min(own.band.dilation, xs[0].shape[2])):
            parts = [x[:, own.first : own.last, residue :: own.band.dilation] for x in xs]
            for _, views in lanes(*parts):
                yield own.band, views


def gather(x: Tensor, index: Tensor) -> Tensor:
    """`[B, H, N, C]` at positions int64 `[B or 1, G]` -> `[B, H, G, C]`."""
    return x.take_along_dim(index[:, None, :, None], dim=2)


def scatter(into: Tensor, index: Tensor, values: Tensor) -> None:
    """The transpose of `gather`: into `[B, H, N, C]` += values `[B, H, G, C]` where they came from."""
    into.scatter_add_(2, index[:, None, :, None].expand_as(values), values)
