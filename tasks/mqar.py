"""Multi-query associative recall (MQAR).

Arora et al., Zoology (2023), arXiv:2312.04927; HazyResearch/zoology, zoology/data/multiquery_ar.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from tasks.base import Examples, SplitName
from tasks.drawn import Drawn, distinct, in_chunks, no_targets
from tasks.splits import Part, apportion, check_at_least

_CHUNK = 2048  # rows drawn at once: bounds the memory of the permutations

#: Kinds of examples in one split, each (length, pairs, share of the split).
Mixture = list[tuple[int, int, float]]


class MQAR(Drawn):
    """Key-value pairs `k1 v1 k2 v2 ...`, then every key once more; predict its value at that place.

    Keys are ids 1..vocab//2-1, values vocab//2..vocab-1, both distinct in a sequence. After the
    pairs, the rest of the sequence is cut in slots of two positions; key j stands at the first
    position of its slot, slots being drawn without replacement with probability ~ i**(power - 1),
    so mostly early. The target there is value j; all other targets are `IGNORE`.

    seq_len: at least 4 * pairs, and the length of the longest row of a mixture; others are padded to it.
    pairs: key-value pairs, N, in rows of seq_len tokens; or a mixture of rows as a list of
        [length, pairs, share of the split], with the tags `length` and `pairs` on dev and test.
    eval_pairs: the same for dev and test, where they differ from train; None if they do not.
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
        pairs: int | Mixture = 4,
        eval_pairs: int | Mixture | None = None,
        vocab: int = 8192,
        power: float = 0.01,
        random_non_queries: bool = True,
        train_examples: int = 100_000,
        dev_examples: int = 1_000,
        test_examples: int = 1_000,
    ) -> None:
        super().__init__(
            seq_len=seq_len,
            seed=seed,
            train_examples=train_examples,
            dev_examples=dev_examples,
            test_examples=test_examples,
        )
        for name, value in (("pairs", pairs), ("eval_pairs", eval_pairs)):
            if value is not None:
                _check(name, value, seq_len)
        check_at_least(vocab, seq_len + 1, "vocab", f"more ids than positions, seq_len={seq_len}")
        if not power > 0:
            raise ValueError(f"power={power}: expected a number above 0")
        self.pairs, self.eval_pairs = pairs, pairs if eval_pairs is None else eval_pairs
        self.vocab, self.power, self.random_non_queries = vocab, power, random_non_queries

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

    def parts(self, split: SplitName) -> Sequence[Part]:
        """One part a kind of the mixture, its rows alike in length and pairs."""
        pairs = self.pairs if split == "train" else self.eval_pairs
        if isinstance(pairs, int):
            return [Part(partial(self._draw, self.seq_len, pairs), self.counts[split])]
        counts = apportion(self.counts[split], [share for *_, share in pairs])
        return [
            Part(partial(self._draw, length, number), count, {"length": length, "pairs": number})
            for (length, number, _), count in zip(pairs, counts, strict=True)
        ]

    def _draw(self, length: int, pairs: int, rng: np.random.Generator, count: int) -> Examples:
        return in_chunks(partial(self._chunk, length, pairs), rng, count, _CHUNK)

    def _chunk(self, length: int, pairs: int, rng: np.random.Generator, count: int) -> Examples:
        context, half = 2 * pairs, self.vocab // 2
        keys = 1 + distinct(rng, count, half - 1, pairs)
        values = half + distinct(rng, count, self.vocab - half, pairs)
        tokens = np.zeros((count, length), dtype=np.int64)
        tokens[:, 0:context:2] = keys
        tokens[:, 1:context:2] = values

        slots = (length - context) // 2
        weight = np.arange(1, slots + 1) ** (self.power - 1.0)
        # The order of exponential arrival times with these rates is successive weighted drawing.
        arrival = rng.exponential(size=(count, slots)) / weight
        position = context + 2 * np.argsort(arrival, axis=1)[:, :pairs]
        np.put_along_axis(tokens, position, keys, axis=1)
        targets = no_targets(tokens)
        np.put_along_axis(targets, position, values, axis=1)
        if self.random_non_queries:
            empty = tokens == 0
            tokens[empty] = rng.integers(self.vocab, size=int(empty.sum()))
        return self.pack(tokens, targets)


def _check(name: str, pairs: int | Mixture, seq_len: int) -> None:
    if isinstance(pairs, int):
        check_at_least(pairs, 1, name)
        check_at_least(seq_len, 4 * pairs, "seq_len", f"4 * {name}, {name}={pairs}")
        return
    for kind in pairs:
        length, number, share = kind
        if not (number >= 1 and 4 * number <= length <= seq_len and share > 0):
            raise ValueError(
                f"{name}={pairs}: expected [length, pairs, share] with pairs >= 1, 4 * pairs <= length <= "
                f"seq_len={seq_len} and share > 0, got {list(kind)}"
            )
    if not pairs:
        raise ValueError(f"{name}=[]: expected a number or at least one [length, pairs, share]")
