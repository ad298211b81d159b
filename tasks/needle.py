"""A needle in a haystack: one marked pair in random filler, asked for at the end.

There is no standard form for encoders; this is the usual one, scored by length and depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from tasks.base import Examples, SplitName
from tasks.drawn import Drawn, no_targets
from tasks.splits import Part, apportion, check_at_least

_MARK = 1
_NEEDLE, _QUESTION = 3, 2  # tokens: mark, key, value; mark, key


class Needle(Drawn):
    """Filler with `mark key value` somewhere in it, then `mark key`; predict the value at the last token.

    Ids: 0 padding, 1 the mark, keys (first half of `vocab`), values, filler; all uniform. The one target of a row
    is at its last token.
    Depth is where the needle begins, from 0 (the first token) to 1 (right before the question).

    In train the depth is uniform. Dev and test have each length at each of `depths` depths, spread evenly from
    0 to 1, equally often, with the tags `length` and `depth`. The question's tokens are global for methods
    that have such (`Examples.global_mask`).

    seq_len: rows are padded to it; at least 5.
    lengths: of rows, each at least 5 and at most seq_len; None for seq_len alone.
    depths: number of depths, at least 2.
    vocab: keys and values, even, at least 4.
    filler: ids that the filler is made of. 0 makes it of keys and values, so that only the mark tells the needle
        from the hay, which takes two steps (find the mark, then what follows it) and is much harder to learn.
    """

    per_token: ClassVar[bool] = True

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        lengths: list[int] | None = None,
        depths: int = 11,
        vocab: int = 64,
        filler: int = 64,
        train_examples: int = 20_000,
        dev_examples: int = 2_200,
        test_examples: int = 2_200,
    ) -> None:
        super().__init__(
            seq_len=seq_len,
            seed=seed,
            train_examples=train_examples,
            dev_examples=dev_examples,
            test_examples=test_examples,
        )
        shortest = _NEEDLE + _QUESTION
        check_at_least(seq_len, shortest, "seq_len", "a needle and a question")
        if lengths is not None and not (lengths and all(shortest <= n <= seq_len for n in lengths)):
            raise ValueError(f"lengths={lengths}: expected one or more from {shortest} to seq_len={seq_len}")
        check_at_least(depths, 2, "depths")
        check_at_least(vocab, 4, "vocab")
        if vocab % 2:
            raise ValueError(f"vocab={vocab}: expected an even number (keys and values)")
        check_at_least(filler, 0, "filler")
        self.lengths, self.depths = lengths or [seq_len], depths
        self.vocab, self.filler = vocab, filler

    @property
    def vocab_size(self) -> int:
        """Padding, mark, keys, values and filler."""
        return 2 + self.vocab + self.filler

    @property
    def num_classes(self) -> int:
        """Ids as they are; only values are targets."""
        return 2 + self.vocab

    @property
    def chance(self) -> float:
        """Values are uniform."""
        return 2.0 / self.vocab

    def parts(self, split: SplitName) -> Sequence[Part]:
        """A part a length in train, a part a length and depth in dev and test."""
        count = self.counts[split]
        if split == "train":
            counts = apportion(count, [1.0] * len(self.lengths))
            return [Part(partial(self._draw, n, None), c) for n, c in zip(self.lengths, counts, strict=True)]
        kinds = [(n, i / (self.depths - 1)) for n in self.lengths for i in range(self.depths)]
        counts = apportion(count, [1.0] * len(kinds))
        return [
            Part(partial(self._draw, n, depth), c, {"length": n, "depth": round(depth, 6)})
            for (n, depth), c in zip(kinds, counts, strict=True)
        ]

    def _draw(self, length: int, depth: float | None, rng: np.random.Generator, count: int) -> Examples:
        """Rows of `length` tokens, the needle at `depth`, or anywhere."""
        latest = length - _QUESTION - _NEEDLE
        start = rng.integers(latest + 1, size=count) if depth is None else np.full(count, round(depth * latest))
        half = self.vocab // 2
        key = rng.integers(2, 2 + half, size=count)
        value = rng.integers(2 + half, 2 + self.vocab, size=count)
        first = 2 + self.vocab if self.filler else 2
        tokens = rng.integers(first, self.vocab_size, size=(count, length))
        row = np.arange(count)
        for offset, content in enumerate((np.full(count, _MARK), key, value)):
            tokens[row, start + offset] = content
        tokens[:, -2], tokens[:, -1] = _MARK, key
        targets = no_targets(tokens)
        targets[:, -1] = value
        asks = np.zeros(tokens.shape, dtype=bool)
        asks[:, -_QUESTION:] = True
        return self.pack(tokens, targets, global_mask=asks)
