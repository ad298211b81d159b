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


@dataclass(frozen=True)
class Tile:
    """`count` tiles of equal size over tensors `[lanes, rows, D]` whose blocks count through all lanes."""

    block: int
    count: int
    queries: Tensor
    """int64 `[count * p]`: the query blocks, p a tile."""
    keys: Tensor | None
    """int64 `[count, c]`: the key blocks; None where tile t sees all of lane `lanes.start + t`."""
    lanes: slice
    heads: Tensor
    """int64 `[count]`: the head of each tile."""
    blocks: int
    """Blocks a lane."""
    space: Workspace

    def take_queries(self, x: Tensor, name: str) -> Tensor:
        """x `[lanes, rows, D]` -> a copy of the query rows, `[count, p * block, D]`."""
        return self._select(x, self.queries, name)

    def take_keys(self, x: Tensor, name: str) -> Tensor:
        """x `[lanes, rows, D]` -> the key rows, `[count, n, D]`; a view of x where a lane is seen whole."""
        return x[self.lanes] if self.keys is None else self._select(x, self.keys.flatten(), name)

    def key_bias(self, bias: Tensor) -> Tensor:
        """bias `[lanes, rows]` -> that of the keys, `[count, 1, n]`."""
        return self.take_keys(bias[:, :, None], "key_bias").transpose(1, 2)

    def put_queries(self, x: Tensor, values: Tensor) -> None:
        """x's query rows = values `[count, p * block, D]`."""
        self._as_blocks(x).index_copy_(0, self.queries, values.reshape(len(self.queries), -1))

    def add_keys(self, x: Tensor, values: Tensor) -> None:
        """x's key rows += values `[count, n, D]`; a block in several tiles collects them all."""
        if self.keys is None:
            x[self.lanes].add_(values)
        else:
            self._as_blocks(x).index_add_(0, self.keys.flatten(), values.view(self.keys.numel(), -1))

    def _as_blocks(self, x: Tensor) -> Tensor:
        return x.view(-1, self.block * x.shape[2])

    def _select(self, x: Tensor, index: Tensor, name: str) -> Tensor:
        blocks = self._as_blocks(x)
        held = self.space.take(name, len(index), blocks.shape[1])
        return torch.index_select(blocks, 0, index, out=held).view(self.count, -1, x.shape[2])


def tiles(lanes: Lanes, plan: Sequence[Rows], space: Workspace) -> Iterator[Tile]:
    """Every query block of these lanes once, in groups whose scores fit the cache."""
    layout, device = lanes.layout, space.device
    block, blocks = layout.block, layout.blocks
    first, last = lanes.heads.start, lanes.heads.stop
    heads = torch.arange(first, last, device=device).repeat(lanes.count // (last - first))
    start = torch.arange(lanes.count, device=device) * blocks
    for part in plan:
        if part.dense:
            pairs = block * layout.rows
            for low, high in groups(lanes.count, len(part.rows) * pairs, device):
                for top, end in groups(len(part.rows), (high - low) * pairs, device):
                    queries = (start[low:high, None] + part.rows[top:end]).flatten()
                    span = slice(low, high)
                    yield Tile(block, high - low, queries, None, span, heads[span], blocks, space)
            continue
        queries = (start[:, None] + part.rows).flatten()
        count = part.keys.shape[2]
        own = part.keys[first:last].repeat(lanes.count // (last - first), 1, 1) + start[:, None, None]
        keys, owners = own.view(-1, count), heads.repeat_interleave(len(part.rows))
        for low, high in groups(len(queries), count * block**2, device):
            yield Tile(
                block, high - low, queries[low:high], keys[low:high], slice(0, 0), owners[low:high], blocks, space
            )
