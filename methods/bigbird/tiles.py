"""Groups of query blocks against the key blocks they attend, small enough to stay in cache.

Keys are gathered block by block: a block is one stretch of memory, so that gathering costs an eighth of the
products on it, and one softmax runs over all of a row's keys. Global rows see every key where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.bigbird.lanes import Lanes
from methods.bigbird.plan import Rows
from methods.ops.tiles import Workspace, groups


@dataclass(slots=True)
class Tile:
    """`count` tiles of equal size over tensors `[lanes, rows, D]` whose blocks count through all lanes."""

    block: int
    count: int
    queries: Tensor
    """int64 `[count * p]`: the query blocks, p a tile."""
    first: int | None
    """The first query block where the others follow it one by one; else None."""
    keys: Tensor | None
    """int64 `[count, c]`: the key blocks; None where tile t sees all of lane `lanes.start + t`."""
    lanes: slice
    heads: Tensor
    """int64 `[count]`: the head of each tile."""
    blocks: int
    """Blocks a lane."""
    space: Workspace

    def take_queries(self, x: Tensor, name: str) -> Tensor:
        """x `[lanes, rows, D]` -> the query rows, `[count, p * block, D]`: a view where they lie in one piece."""
        if self.first is None:
            return self._select(x, self.queries, name)
        return self._slice(x, self.first)

    def target(self, x: Tensor, name: str) -> Tensor:
        """Where to write x's query rows, `[count, p * block, D]`; then `store` it."""
        if self.first is None:
            return self.space.take(name, self.count, len(self.queries) // self.count * self.block, x.shape[2])
        return self._slice(x, self.first)

    def store(self, x: Tensor, values: Tensor) -> None:
        """x's query rows = values `[count, p * block, D]`, which may already lie there."""
        if self.first is None:
            self._as_blocks(x).index_copy_(0, self.queries, values.view(len(self.queries), -1))
        elif values.data_ptr() != (there := self._slice(x, self.first)).data_ptr():
            there.copy_(values)

    def take_keys(self, x: Tensor, name: str) -> Tensor:
        """x `[lanes, rows, D]` -> the key rows, `[count, n, D]`; a view of x where a lane is seen whole."""
        return x[self.lanes] if self.keys is None else self._select(x, self.keys.flatten(), name)

    def key_bias(self, bias: Tensor) -> Tensor:
        """bias `[lanes, rows]` -> that of the keys, `[count, 1, n]`."""
        return self.take_keys(bias[:, :, None], "key_bias").transpose(1, 2)

    def add_keys(self, x: Tensor, values: Tensor) -> None:
        """x's key rows += values `[count, n, D]`; a block in several tiles collects them all."""
        if self.keys is None:
            x[self.lanes].add_(values)
        else:
            self._as_blocks(x).index_add_(0, self.keys.flatten(), values.view(self.keys.numel(), -1))

    def _as_blocks(self, x: Tensor) -> Tensor:
        return x.view(-1, self.block * x.shape[2])

    def _slice(self, x: Tensor, first: int) -> Tensor:
        return x.view(-1, self.block, x.shape[2])[first : first + len(self.queries)]

    def _select(self, x: Tensor, index: Tensor, name: str) -> Tensor:
        blocks = self._as_blocks(x)
        held = self.space.take(name, len(index), blocks.shape[1])
        return torch.index_select(blocks, 0, index, out=held).view(self.count, -1, x.shape[2])


def tiles(lanes: Lanes, plan: Sequence[Rows], space: Workspace, size: float = 1.0) -> Iterator[Tile]:
    """Every query block of these lanes once, in groups whose scores fit the cache.

    Where a lane fills a group, groups stay within it, since neighbouring query blocks need no gathering then, and
    are `size` times as large: their memory is paid for once.
    """
    layout, device = lanes.layout, space.device
    block, blocks = layout.block, layout.blocks
    first, last = lanes.heads.start, lanes.heads.stop
    copies = lanes.count // (last - first)
    heads = torch.arange(first, last, device=device).repeat(copies)
    start = torch.arange(lanes.count, device=device) * blocks
    for part in plan:
        rows = len(part.rows)
        if part.dense:
            pairs = block * layout.rows
            for low, high in groups(lanes.count, rows * pairs, device):
                for top, end in groups(rows, (high - low) * pairs, device):
                    queries = (start[low:high, None] + part.rows[top:end]).flatten()
                    span = slice(low, high)
                    yield Tile(block, high - low, queries, None, None, span, heads[span], blocks, space)
            continue
        count = part.keys.shape[2]
        pairs = count * block**2
        queries = (start[:, None] + part.rows).flatten()
        keys = (part.keys[first:last].repeat(copies, 1, 1) + start[:, None, None]).view(-1, count)
        owners = heads.repeat_interleave(rows)
        inside = part.first is not None and sum(1 for _ in groups(rows, pairs, device)) > 1
        if inside:
            pairs = max(1, int(pairs / size))
        for lane in range(lanes.count if inside else 1):
            for low, high in groups(rows if inside else len(queries), pairs, device):
                span = slice(lane * rows + low, lane * rows + high)
                begin = lane * blocks + part.first + low if inside and part.first is not None else None
                yield Tile(
                    block, high - low, queries[span], begin, keys[span], slice(0, 0), owners[span], blocks, space
                )
