"""Find the furthest vector: a task that full attention solves in one layer and sparse patterns do not.

Zaheer et al., Big Bird (2020), arXiv:2007.14062, section 3.4, Proposition 1: given n unit vectors, find for each
the one furthest from it. With Q(x) = -x, K(x) = V(x) = x, sharp full attention returns it; attention over
O(n polylog n) pairs needs a number of layers that grows almost like n (under the orthogonal vectors conjecture).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks.base import Examples, SplitName
from tasks.drawn import Drawn, distinct, in_chunks
from tasks.seeds import generator
from tasks.splits import Part, check_at_least

_CHUNK = 512  # rows drawn at once


class FurthestVector(Drawn):
    """Tokens are names of unit vectors; the target at each is the token, of this sequence, of the furthest one.

    Id i stands for row i of `book`: `vectors` points, uniform on the unit sphere of `dim` dimensions, drawn
    from the seed and the same for all examples; a model has to learn them. A sequence is seq_len different ids
    in random order. Points in general position have no ties, so the target is unique.

    A model that sees no other token than its own can at best name the point furthest from it in the whole
    book, which is in the sequence with probability seq_len / vectors (`alone`).

    seq_len: at least 2.
    vectors: size of the book, above seq_len.
    dim: dimensions of a point; the fewer, the harder two candidates are to tell apart.
    """

    per_token: ClassVar[bool] = True

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        vectors: int = 4096,
        dim: int = 8,
        train_examples: int = 10_000,
        dev_examples: int = 500,
        test_examples: int = 500,
    ) -> None:
        super().__init__(
            seq_len=seq_len,
            seed=seed,
            train_examples=train_examples,
            dev_examples=dev_examples,
            test_examples=test_examples,
        )
        check_at_least(seq_len, 2, "seq_len")
        check_at_least(vectors, seq_len + 1, "vectors", f"more than tokens, seq_len={seq_len}")
        check_at_least(dim, 2, "dim")
        self.vectors, self.dim = vectors, dim

    @cached_property
    def book(self) -> NDArray[np.float64]:
        """float64 `[vectors, dim]`: the unit vector that each id stands for."""
        points = generator(self.seed, "book").standard_normal((self.vectors, self.dim))
        unit: NDArray[np.float64] = points / np.linalg.norm(points, axis=1, keepdims=True)
        return unit

    @property
    def vocab_size(self) -> int:
        """One id a vector."""
        return self.vectors

    @property
    def num_classes(self) -> int:
        """The answer is an id."""
        return self.vectors

    @property
    def chance(self) -> float:
        """Share of the most frequent answer of the test split: outlying points are answers more often."""
        targets = self.examples("test").targets
        return float(np.bincount(targets.numpy().ravel()).max()) / targets.numel()

    @property
    def alone(self) -> float:
        """Accuracy of the best answer that sees its own token only."""
        return self.seq_len / self.vectors

    def parts(self, split: SplitName) -> Sequence[Part]:
        """One kind of examples."""
        return [Part(self._draw, self.counts[split])]

    @cached_property
    def _furthest_first(self) -> NDArray[np.int32]:
        """int32 `[vectors, vectors]`: for each id all ids, from the furthest to its own."""
        # of unit vectors the furthest is the one with the smallest inner product
        return np.argsort(self.book @ self.book.T, axis=1).astype(np.int32)

    def _draw(self, rng: np.random.Generator, count: int) -> Examples:
        return in_chunks(self._chunk, rng, count, _CHUNK)

    def _chunk(self, rng: np.random.Generator, count: int) -> Examples:
        tokens = distinct(rng, count, self.vectors, self.seq_len)
        present = np.zeros((count, self.vectors), dtype=bool)
        np.put_along_axis(present, tokens, True, axis=1)
        row, asking = np.repeat(np.arange(count), self.seq_len), tokens.ravel()
        targets, open_ = np.empty(tokens.size, dtype=np.int64), np.arange(tokens.size)
        for rank in range(self.vectors):  # few: each candidate is in the sequence with odds seq_len / vectors
            candidate = self._furthest_first[asking[open_], rank]
            found = present[row[open_], candidate]
            targets[open_[found]] = candidate[found]
            open_ = open_[~found]
            if not open_.size:
                break
        return self.pack(tokens, targets.reshape(tokens.shape))
