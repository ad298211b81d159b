"""Copying and selective copying.

Arjovsky et al., Unitary Evolution RNNs (2016), arXiv:1511.06464; state-spaces/s4,
src/dataloaders/datasets/copying.py; selective: Gu and Dao, Mamba (2023), and athms/mad-lab.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tasks.base import Examples, SplitName
from tasks.drawn import Drawn, no_targets
from tasks.splits import Part, check_at_least


class Copying(Drawn):
    """`tokens` data tokens, then blanks, then `tokens` markers; the target at marker i is data token i.

    Ids: 0 blank, 1..alphabet-2 data, alphabet-1 marker. Targets are `IGNORE` elsewhere.

    seq_len: 2 * tokens + the number of blanks; the blanks are what is left, 0 or more.
    tokens: data tokens to copy, M.
    alphabet: number of ids, at least 4 (two data tokens). Classes are all ids.
    selective: scatter the data tokens, in order, over the positions before the markers. Else they
        come first, and copying needs positions only, not content.

    Not causal by default: the answer stands nowhere at or after the marker, so an encoder that sees
    the whole sequence learns nothing it should not. Under the `causal` axis the task is the same.
    """

    per_token: ClassVar[bool] = True

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        tokens: int = 16,
        alphabet: int = 16,
        selective: bool = False,
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
        check_at_least(tokens, 1, "tokens")
        check_at_least(alphabet, 4, "alphabet", "blank, marker and two data tokens")
        check_at_least(seq_len, 2 * tokens, "seq_len", f"2 * tokens, tokens={tokens}")
        self.tokens, self.alphabet, self.selective = tokens, alphabet, selective

    @property
    def vocab_size(self) -> int:
        """All ids, blank and marker included."""
        return self.alphabet

    @property
    def num_classes(self) -> int:
        """The output is over the whole alphabet."""
        return self.alphabet

    @property
    def chance(self) -> float:
        """Data tokens are uniform, so any one of them is right once in their number."""
        return 1.0 / (self.alphabet - 2)

    def parts(self, split: SplitName) -> Sequence[Part]:
        """One kind of examples."""
        return [Part(self._draw, self.counts[split])]

    def _draw(self, rng: np.random.Generator, count: int) -> Examples:
        before = self.seq_len - self.tokens  # positions in front of the markers
        data = rng.integers(1, self.alphabet - 1, size=(count, self.tokens))
        tokens = np.zeros((count, self.seq_len), dtype=np.int64)
        if self.selective:
            order = np.argsort(rng.random((count, before)), axis=1)
            position = np.sort(order[:, : self.tokens], axis=1)
            np.put_along_axis(tokens, position, data, axis=1)
        else:
            tokens[:, : self.tokens] = data
        tokens[:, before:] = self.alphabet - 1
        targets = no_targets(tokens)
        targets[:, before:] = data
        return self.pack(tokens, targets)
