"""Multi-query associative recall (MQAR).

Arora et al., Zoology (2023), arXiv:2312.04927; HazyResearch/zoology, zoology/data/multiquery_ar.py.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks.base import IGNORE, Examples, SplitName, Task
from tasks.splits import check_at_least, disjoint_splits

_CHUNK = 2048  # rows drawn at once: bounds the memory of the permutations


class MQAR(Task):
    """Key-value pairs `k1 v1 k2 v2 ...`, then every key once more; predict its value at that place.

    Keys are ids 1..vocab//2-1, values vocab//2..vocab-1, both distinct in a sequence. After the
    pairs, the rest of the sequence is cut in slots of two positions; key j stands at the first
    position of its slot, slots being drawn without replacement with probability ~ i**(power - 1),
    so mostly early. The target there is value j; all other targets are `IGNORE`.

    seq_len: at least 4 * pairs.
    pairs: key-value pairs, N.
    vocab: number of ids, above seq_len. Classes are all ids.
    power: the published a = 0.01; 1 spreads the queries evenly.
    random_non_queries: fill the other positions with random ids instead of 0.

    Causal by default, as published: at a query its value has been seen, and nothing later helps.
    """

    causal: ClassVar[bool] = True
    per_token: ClassVar[bool] = True

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        pairs: int = 4,
        vocab: int = 8192,
        power: float = 0.01,
        random_non_queries: bool = True,
        train_examples: int = 100_000,
        dev_examples: int = 1_000,
        test_examples: int = 1_000,
    ) -> None:
        super().__init__(seq_len=seq_len, seed=seed)
        check_at_least(pairs, 1, "pairs")
        check_at_least(seq_len, 4 * pairs, "seq_len", f"4 * pairs, pairs={pairs}")
        check_at_least(vocab, seq_len + 1, "vocab", f"more ids than positions, seq_len={seq_len}")
        if not power > 0:
            raise ValueError(f"power={power}: expected a number above 0")
        self.pairs, self.vocab, self.power = pairs, vocab, power
        self.random_non_queries = random_non_queries
        self._counts: dict[SplitName, int] = {
            "train": train_examples,
            "dev": dev_examples,
            "test": test_examples,
        }
        for name, count in self._counts.items():
            check_at_least(count, 1, f"{name}_examples")

    @property
    def vocab_size(self) -> int:
        """All ids, filler 0 included."""
        return self.vocab

    @property
    def num_classes(self) -> int:
        """The output is over the whole vocabulary."""
        return self.vocab

    @property
    def chance(self) -> float:
        """Values are uniform, so any one value is right once in the number of values."""
        return 1.0 / (self.vocab - self.vocab // 2)

    def examples(self, split: SplitName) -> Examples:
        """The whole split; targets int64 `[n, seq_len]`."""
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[SplitName, Examples]:
        return disjoint_splits(self._draw, self.seed, self._counts)

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        chunks = [self._chunk(rng, min(_CHUNK, count - i)) for i in range(0, count, _CHUNK)]
        return np.concatenate([c[0] for c in chunks]), np.concatenate([c[1] for c in chunks])

    def _chunk(self, rng: np.random.Generator, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        context, half = 2 * self.pairs, self.vocab // 2
        keys = 1 + distinct(rng, count, half - 1, self.pairs)
        values = half + distinct(rng, count, self.vocab - half, self.pairs)
        tokens = np.zeros((count, self.seq_len), dtype=np.int64)
        tokens[:, 0:context:2] = keys
        tokens[:, 1:context:2] = values

        slots = (self.seq_len - context) // 2
        weight = np.arange(1, slots + 1) ** (self.power - 1.0)
        # The order of exponential arrival times with these rates is successive weighted drawing.
        arrival = rng.exponential(size=(count, slots)) / weight
        position = context + 2 * np.argsort(arrival, axis=1)[:, : self.pairs]
        np.put_along_axis(tokens, position, keys, axis=1)
        targets = np.full((count, self.seq_len), IGNORE, dtype=np.int64)
        np.put_along_axis(targets, position, values, axis=1)
        if self.random_non_queries:
            empty = tokens == 0
            tokens[empty] = rng.integers(self.vocab, size=int(empty.sum()))
        return tokens, targets


def distinct(rng: np.random.Generator, rows: int, population: int, take: int) -> NDArray[np.int64]:
    """int64 `[rows, take]`: in each row, `take` different numbers out of 0..population-1, in random order."""
    pool = np.tile(np.arange(population), (rows, 1))
    row = np.arange(rows)
    for i in range(take):  # the first steps of Fisher and Yates' shuffle, all rows at once
        j = rng.integers(i, population, size=rows)
        chosen = pool[row, j]
        pool[row, j] = pool[:, i]
        pool[:, i] = chosen
    return pool[:, :take]
