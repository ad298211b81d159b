"""The duplication task: the second half of a sequence repeats the first.

Kitaev et al., Reformer (2020), arXiv:2001.04451, section 2.1 (there |w| = 511, symbols 1..127).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tasks.base import Examples, SplitName
from tasks.drawn import Drawn, no_targets
from tasks.splits import Part, check_at_least


class Duplication(Drawn):
    """Next-token prediction on `0 w 0 w`; asked for is the second w.

    w are m = seq_len / 2 - 1 uniform symbols, ids 1..symbols. The tokens stand at positions 0..2m+1; the
    target at position p is the token at p + 1, for p = m + 1 (the second 0, to be followed by w1) to
    p = 2m (w of index m - 1, to be followed by the last). All other targets are `IGNORE`: the first
    half is random, and nothing follows the last token. So the answer at p stands at p - m, and no other
    position up to p tells it.

    seq_len: even, at least 4.
    symbols: number of different symbols. Classes are these and the separator 0.

    Causal by default: without the mask the answer stands one position on.
    """

    causal: ClassVar[bool] = True
    per_token: ClassVar[bool] = True

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        symbols: int = 127,
        train_examples: int = 12_800,
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
        check_at_least(symbols, 2, "symbols")
        check_at_least(seq_len, 4, "seq_len", "0 w 0 w with one symbol in w")
        if seq_len % 2:
            raise ValueError(f"seq_len={seq_len}: expected an even number (0 w 0 w)")
        self.symbols = symbols

    @property
    def vocab_size(self) -> int:
        """The symbols and the separator."""
        return self.symbols + 1

    @property
    def num_classes(self) -> int:
        """Ids as they are; the separator is never a target."""
        return self.symbols + 1

    @property
    def chance(self) -> float:
        """Symbols are uniform."""
        return 1.0 / self.symbols

    def parts(self, split: SplitName) -> Sequence[Part]:
        """One kind of examples."""
        return [Part(self._draw, self.counts[split])]

    def _draw(self, rng: np.random.Generator, count: int) -> Examples:
        half = self.seq_len // 2
        tokens = np.zeros((count, self.seq_len), dtype=np.int64)
        tokens[:, 1:half] = tokens[:, half + 1 :] = rng.integers(1, self.symbols + 1, size=(count, half - 1))
        targets = no_targets(tokens)
        targets[:, half:-1] = tokens[:, half + 1 :]
        return self.pack(tokens, targets)
