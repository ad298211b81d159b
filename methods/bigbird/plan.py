"""BigBird's block pattern (Zaheer et al. 2020, arXiv 2007.14062, section 2 and appendix D) and its random plan.

Tokens form blocks of `block`. Global blocks, the first `front` and the last `back`, attend and are attended by
all. Every other block attends the global blocks, the `window_blocks` around itself, and `random_blocks` more:
distinct blocks outside that set, drawn for each layer and head. No block is listed twice, so none counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RandomRange = Literal["all", "prefix"]

PREFIX_TOKENS = 1024
"""Where `random_range=prefix` draws from: the reference's plan for 1024 to 4096 tokens stays in these."""

ROWS_AT_A_TIME = 256
"""Rows of blocks whose draws are made at once, so that a long input needs no matrix of all pairs."""


@dataclass(frozen=True)
class Rows:
    """Block rows with equally many key blocks: rows int64 `[R]`, keys int64 `[H, R, c]`, ascending."""

    rows: Tensor
    keys: Tensor
    dense: bool
    """Every block is a key, so that nothing need be gathered."""
    first: int | None
    """The first row where the others follow it one by one; else None."""


@dataclass(frozen=True)
class Pattern:
    """Which block attends which. All counts are of blocks; `window_blocks` is odd and counts the block itself."""

    block: int
    window_blocks: int
    front: int
    back: int
    random_blocks: int
    random_range: RandomRange = "all"

    def is_global(self, blocks: int) -> NDArray[np.bool_]:
        """bool `[blocks]`: the first `front` and the last `back`."""
        at = np.arange(blocks)
        return (at < self.front) | (at >= blocks - self.back)

    def fixed(self, blocks: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool `[len(rows), blocks]`: what these rows see whatever was drawn."""
        shared = self.is_global(blocks)
        seen: NDArray[np.bool_] = np.abs(rows[:, None] - np.arange(blocks)) <= self.window_blocks // 2
        seen |= shared | shared[rows, None]
        return seen

    def legal(self, blocks: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool `[len(rows), blocks]`: what these rows may draw."""
        reach = blocks if self.random_range == "all" else -(-PREFIX_TOKENS // self.block)
        return ~self.fixed(blocks, rows) & (np.arange(blocks) < reach)

    def drawn(self, blocks: int) -> NDArray[np.int64]:
        """int64 `[blocks]`: how many random blocks each row gets, `min(random_blocks, legal ones)`."""
        parts = [self.legal(blocks, rows).sum(axis=1) for rows in parts_of(blocks)]
        count: NDArray[np.int64] = np.minimum(np.concatenate(parts), self.random_blocks)
        return count

    def is_short(self, blocks: int) -> bool:
        """Whether some row that is not global has fewer than `random_blocks` blocks to draw from."""
        return bool((self.drawn(blocks)[~self.is_global(blocks)] < self.random_blocks).any()) or (
            self.random_blocks > 0 and blocks <= self.front + self.back
        )

    def needed_blocks(self) -> int:
        """The fewest blocks at which every row can draw: globals, a whole window, and the random blocks."""
        return self.front + self.back + self.window_blocks + self.random_blocks if self.random_blocks else 1

    def covers(self, blocks: int) -> bool:
        """Whether every block attends every block, so that this is full attention."""
        seen = [self.fixed(blocks, rows).sum(axis=1) for rows in parts_of(blocks)]
        return bool((np.concatenate(seen) + self.drawn(blocks) == blocks).all())

    def pairs(self, blocks: int) -> int:
        """Pairs of blocks (query, key) that attend, of one head."""
        seen = [int(self.fixed(blocks, rows).sum()) for rows in parts_of(blocks)]
        return sum(seen) + int(self.drawn(blocks).sum())

    def keys(self, blocks: int, entropy: tuple[int, ...]) -> list[NDArray[np.int64]]:
        """Key blocks of every row of one head, ascending, and a pure function of `entropy` and `blocks`.

        Random ones are a uniform draw without replacement from the legal ones. Touches no global generator.
        """
        random = np.random.default_rng([*entropy, blocks])
        found = []
        for rows in parts_of(blocks):
            chosen, legal = self.fixed(blocks, rows), self.legal(blocks, rows)
            if self.random_blocks:
                score = np.where(legal, random.random(legal.shape), 2.0)
                first = np.argsort(score, axis=1)[:, : self.random_blocks]
                chosen[np.arange(len(rows))[:, None], first] |= np.take_along_axis(legal, first, axis=1)
            found += [np.flatnonzero(row) for row in chosen]
        return found

    def plan(self, blocks: int, heads: int, entropy: tuple[int, ...], device: torch.device) -> list[Rows]:
        """All rows of all heads, grouped by their number of keys; head h draws with `(*entropy, h)`."""
        keys = [self.keys(blocks, (*entropy, head)) for head in range(heads)]
        counts = np.array([len(row) for row in keys[0]])  # the same in every head
        shared = self.is_global(blocks)
        found = []
        for count in np.unique(counts):
            for whole in (True, False):
                rows = np.flatnonzero((counts == count) & (shared == whole))
                if len(rows):
                    held = np.array([[head[row] for row in rows] for head in keys])
                    first = int(rows[0]) if rows[-1] - rows[0] == len(rows) - 1 else None
                    index = torch.from_numpy(rows).to(device), torch.from_numpy(held).to(device)
                    found.append(Rows(*index, whole, first))
        return found

    def matrix(self, blocks: int, heads: int, entropy: tuple[int, ...]) -> Tensor:
        """bool `[heads, blocks, blocks]`: True where a block attends a block, drawn ones included."""
        mask = torch.zeros(heads, blocks, blocks, dtype=torch.bool)
        for head in range(heads):
            for row, held in enumerate(self.keys(blocks, (*entropy, head))):
                mask[head, row, torch.from_numpy(held)] = True
        return mask


def parts_of(blocks: int) -> Iterator[NDArray[np.int64]]:
    """The rows of blocks, a part at a time."""
    for first in range(0, blocks, ROWS_AT_A_TIME):
        yield np.arange(first, min(first + ROWS_AT_A_TIME, blocks))
