"""Relative positions of BigBird-ETC: a learned vector for each label, added to the keys (Shaw et al. 2018).

Logit of query i and key j: q_i . (k_j + a[label(i, j)]) / sqrt(D). Within the global tokens and within the
others the label is j - i clipped to `reach` on each side; across the two it says the direction only (Ainslie
et al. 2020, arXiv 2004.08483). So the number of parameters does not depend on the length, and the
logits of two tokens do not change when both move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.bigbird.tiles import Tile


def label_count(reach: int) -> int:
    """Labels of one head: -reach..reach, then "from a global token", then "to a global token"."""
    return 2 * reach + 3


@dataclass(frozen=True)
class Relative:
    """`table` `[H, labels, D]`; the first `front_blocks` blocks of a lane hold the global tokens."""

    table: Tensor
    reach: int
    front_blocks: int

    def logits(self, tile: Tile, queries: Tensor) -> Tensor:
        """queries `[count, m, D]` -> the logit of each label, `[count, m, labels]`."""
        return torch.bmm(queries, self.table[tile.heads].transpose(1, 2))

    def add(self, scores: Tensor, tile: Tile, logits: Tensor) -> None:
        """scores `[count, m, n]` += the logit of each pair's label."""
        split = self.front_blocks * tile.block
        near, far, column = self._split(scores, tile, split)
        near.add_(logits.gather(2, self._labels(tile, split)))
        far.add_(logits[:, :, column, None])

    def collect(self, slopes: Tensor, tile: Tile) -> Tensor:
        """The transpose of `add`: gradients of scores -> of the label logits, `[count, m, labels]`."""
        split = self.front_blocks * tile.block
        near, far, column = self._split(slopes, tile, split)
        collected = slopes.new_zeros(*slopes.shape[:2], label_count(self.reach))
        collected.scatter_add_(2, self._labels(tile, split), near)
        collected[:, :, column] += far.sum(dim=-1)
        return collected

    def table_gradient(self, into: Tensor, collected: Tensor, tile: Tile, queries: Tensor) -> None:
        """into `[H, labels, D]` += what this tile's label logits give the table."""
        share = torch.bmm(collected.transpose(1, 2), queries).mul_(math.sqrt(1 / queries.shape[2]))
        into.index_add_(0, tile.heads, share)

    def _split(self, scores: Tensor, tile: Tile, split: int) -> tuple[Tensor, Tensor, int]:
        """(columns of the queries' own kind, the other columns, the label of the latter)."""
        if tile.keys is None:  # global queries: all keys, the global ones first
            return scores[:, :, :split], scores[:, :, split:], 2 * self.reach + 1
        return scores[:, :, split:], scores[:, :, :split], 2 * self.reach + 2

    def _labels(self, tile: Tile, split: int) -> Tensor:
        """int64 `[count, m, own columns]`: the clipped distance from query to key, counted from 0."""
        within = torch.arange(tile.block, device=tile.queries.device)
        if tile.keys is None:
            rows = tile.queries.view(tile.count, -1) % tile.blocks
            at = (rows[:, :, None] * tile.block + within).flatten(1)
            distance = torch.arange(split, device=at.device) - at[:, :, None]
        else:
            apart = (tile.keys[:, self.front_blocks :] - tile.queries[:, None]) * tile.block
            to = (apart[:, :, None] + within).flatten(1)
            distance = to[:, None, :] - within[:, None]
        return distance.clamp_(-self.reach, self.reach).add_(self.reach)
