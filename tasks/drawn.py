"""The base of tasks whose examples are drawn at will: what is left to write is how to draw them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.base import IGNORE, Examples, SplitName, Task, joined
from tasks.splits import Draw, Part, disjoint_splits, split_counts

Ints = NDArray[np.int64]

_DTYPES = (np.uint8, np.int8, np.int16, np.int32, np.int64)


class Drawn(Task):
    """A task with as many examples as are asked for, in disjoint splits.

    A subclass says in `parts` what a split consists of, and makes rows with `pack`.
    """

    def __init__(
        self, *, seq_len: int, seed: int, train_examples: int, dev_examples: int, test_examples: int
    ) -> None:
        super().__init__(seq_len=seq_len, seed=seed)
        self.counts = split_counts(train_examples, dev_examples, test_examples)

    @abstractmethod
    def parts(self, split: SplitName) -> Sequence[Part]:
        """The kinds of examples in the split, with their numbers, which add up to `self.counts[split]`."""

    def examples(self, split: SplitName) -> Examples:
        """The whole split, drawn at the first call and kept."""
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[SplitName, Examples]:
        return disjoint_splits({split: self.parts(split) for split in self.counts}, self.seed)

    def pack(
        self,
        tokens: Ints,
        targets: Ints,
        lengths: Ints | None = None,
        global_mask: NDArray[np.bool_] | None = None,
    ) -> Examples:
        """Rows in the narrowest dtypes: tokens `[n, up to seq_len]`, padded to seq_len; targets `[n]` or alike.

        lengths `[n]`: by default all columns of `tokens` are real.
        """
        n, width = tokens.shape
        if lengths is None:
            lengths = np.full(n, width, dtype=np.int64)
        if targets.ndim == 2:
            targets = targets.astype(narrowest(IGNORE, self.num_classes - 1))
        return Examples(
            self._padded(tokens.astype(narrowest(0, self.vocab_size - 1)), self.pad_id),
            self._padded(targets, IGNORE) if targets.ndim == 2 else torch.from_numpy(targets),
            torch.from_numpy(lengths.astype(np.int32)),
            None if global_mask is None else self._padded(global_mask, False),
        )

    def _padded(self, rows: NDArray[Any], filler: int) -> Tensor:
        missing = self.seq_len - rows.shape[1]
        return torch.from_numpy(np.pad(rows, ((0, 0), (0, missing)), constant_values=filler) if missing else rows)


def narrowest(smallest: int, largest: int) -> type[np.signedinteger[Any]] | type[np.unsignedinteger[Any]]:
    """The first of uint8, int8, int16, int32 and int64 that holds both numbers."""
    fits = (dtype for dtype in _DTYPES if np.iinfo(dtype).min <= smallest and largest <= np.iinfo(dtype).max)
    return next(fits)


def in_chunks(draw: Draw, rng: np.random.Generator, count: int, size: int) -> Examples:
    """`count` examples, at most `size` of them drawn at once: bounds the memory that drawing needs beside them."""
    return joined([draw(rng, min(size, count - start)) for start in range(0, count, size)])


def no_targets(tokens: Ints) -> Ints:
    """Targets for `tokens`, nothing asked yet: `IGNORE` everywhere."""
    return np.full(tokens.shape, IGNORE, dtype=np.int64)


def distinct(rng: np.random.Generator, rows: int, population: int, take: int) -> Ints:
    """int64 `[rows, take]`: in each row, `take` different numbers out of 0..population-1, in random order."""
    pool = np.tile(np.arange(population), (rows, 1))
    row = np.arange(rows)
    for i in range(take):  # the first steps of Fisher and Yates' shuffle, all rows at once
        j = rng.integers(i, population, size=rows)
        chosen = pool[row, j]
        pool[row, j] = pool[:, i]
        pool[:, i] = chosen
    return pool[:, :take]
