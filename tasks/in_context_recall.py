"""In-context recall: plain, noisy and fuzzy.

Poli et al., Mechanistic Design and Scaling of Hybrid Architectures (2024), arXiv:2403.17844; athms/mad-lab,
mad/data/instances.py, the multi-query form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from itertools import permutations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks.base import IGNORE, Examples, SplitName
from tasks.drawn import Drawn, Ints, in_chunks, no_targets
from tasks.splits import Part, check_at_least

_CHUNK = 512  # rows drawn at once
_EMPTY = -1


class InContextRecall(Drawn):
    """A stream of pairs `k v k v ...`; when a key comes again, so does its value, which is then predicted.

    Ids: 0 padding, 1..vocab the symbols (first half keys, second half values), then the noise symbols. Keys and
    values are drawn uniformly, a value once for each key of a row. With probability `noise` a pair is as
    many noise symbols instead. With `motif` above 1 a key is 1..motif different key symbols in a row and a value
    likewise ("fuzzy"): the size is uniform, then the choice among all of that size.

    The target at a position is the next token. Dev and test count only the tokens of values whose key has
    been there before; train counts every next token, as published. As published, keys are of the full size
    `motif` in dev and test, and the last pair is a question for one of the row's keys, uniform over them.

    seq_len: rows end with the last pair that fits, so fuzzy ones are padded; at least two pairs of full size.
    vocab: key and value symbols, even, and no fewer than 2 * motif and 4.
    noise_vocab: noise symbols, used if noise > 0.

    Differences from mad-lab: no symbol of vocab is lost to padding in the fuzzy form, rows are padded on the
    right and not on the left, and the pair that is never noise is the first.
    Causal by default: without the mask the answer stands one position on.
    """

    causal: ClassVar[bool] = True
    per_token: ClassVar[bool] = True

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        vocab: int = 16,
        motif: int = 1,
        noise: float = 0.0,
        noise_vocab: int = 16,
        train_examples: int = 12_800,
        dev_examples: int = 1_280,
        test_examples: int = 1_280,
    ) -> None:
        super().__init__(
            seq_len=seq_len,
            seed=seed,
            train_examples=train_examples,
            dev_examples=dev_examples,
            test_examples=test_examples,
        )
        check_at_least(motif, 1, "motif")
        check_at_least(vocab, max(4, 2 * motif), "vocab", f"motif={motif} different keys and as many values")
        if vocab % 2:
            raise ValueError(f"vocab={vocab}: expected an even number (keys and values)")
        if not 0 <= noise < 1:
            raise ValueError(f"noise={noise}: expected a share from 0 up to, but not, 1")
        check_at_least(noise_vocab, 1, "noise_vocab")
        check_at_least(seq_len, 4 * motif, "seq_len", f"two pairs, motif={motif}")
        self.vocab, self.motif, self.noise, self.noise_vocab = vocab, motif, noise, noise_vocab

    @property
    def vocab_size(self) -> int:
        """Padding, keys, values, and noise symbols where there is noise."""
        return 1 + self.vocab + (self.noise_vocab if self.noise else 0)

    @property
    def num_classes(self) -> int:
        """The output is over all ids: in training any token may come next."""
        return self.vocab_size

    @property
    def chance(self) -> float:
        """At test only values count, and they are uniform."""
        return 2.0 / self.vocab

    def parts(self, split: SplitName) -> Sequence[Part]:
        """One kind of examples; train differs from dev and test."""
        return [Part(partial(self._draw, split == "train"), self.counts[split])]

    def _draw(self, training: bool, rng: np.random.Generator, count: int) -> Examples:
        return in_chunks(partial(self._chunk, training), rng, count, _CHUNK)

    @cached_property
    def _motifs(self) -> tuple[list[Ints], Ints]:
        """Index ranges by size, and the motifs `[number, motif]` of symbols from 0, filled up with `_EMPTY`."""
        rows: list[tuple[int, ...]] = []
        ranges: list[Ints] = []
        for size in range(1, self.motif + 1):
            of_size = list(permutations(range(self.vocab // 2), size))
            ranges.append(np.array([len(rows), len(rows) + len(of_size)]))
            rows += [one + (_EMPTY,) * (self.motif - size) for one in of_size]
        return ranges, np.array(rows)

    def _choose(self, rng: np.random.Generator, shape: tuple[int, int], sizes: list[Ints]) -> Ints:
        """Indices of motifs: a size out of `sizes`, then one of that size."""
        low, high = np.array(sizes)[rng.integers(len(sizes), size=shape)].transpose(2, 0, 1)
        chosen: Ints = rng.integers(low, high)
        return chosen

    def _chunk(self, training: bool, rng: np.random.Generator, count: int) -> Examples:
        ranges, motifs = self._motifs
        length = (motifs != _EMPTY).sum(axis=1)
        pairs = self.seq_len // 2 if training or self.motif == 1 else self.seq_len // (self.motif + 1)
        row = np.arange(count)
        key = self._choose(rng, (count, pairs), ranges if training else ranges[-1:])
        value_of = self._choose(rng, (count, len(motifs)), ranges)  # a value for each key of a row
        noisy = rng.random((count, pairs)) < self.noise
        noisy[:, 0] = False

        # the last pair is one that is sure to fit after those before it; it asks for an earlier key
        size = length[key] + length[np.take_along_axis(value_of, key, axis=1)]
        last = (np.cumsum(size, axis=1) <= self.seq_len - 2 * self.motif).sum(axis=1)
        last = np.minimum(last, pairs - 1)
        before = np.arange(pairs) < last[:, None]
        first = before & ~noisy & _first_time(np.where(noisy, _EMPTY, key))
        asked = np.where(first, rng.random((count, pairs)), -1.0).argmax(axis=1)
        key[row, last] = key[row, asked]
        noisy[row, last] = False

        value = np.take_along_axis(value_of, key, axis=1)
        tokens = np.concatenate([1 + motifs[key], 1 + self.vocab // 2 + motifs[value]], axis=-1)
        present = np.concatenate([motifs[key], motifs[value]], axis=-1) != _EMPTY
        present &= (np.arange(pairs) <= last[:, None])[..., None]
        noise = rng.integers(1 + self.vocab, 1 + self.vocab + self.noise_vocab, size=tokens.shape)
        tokens = np.where(noisy[..., None], noise, tokens)
        answer = np.zeros(tokens.shape, dtype=bool)
        answer[..., self.motif :] = (~noisy & ~_first_time(np.where(noisy, _EMPTY, key)))[..., None]
        return self._lay_out(tokens, present, answer, training)

    def _lay_out(
        self, slots: Ints, present: NDArray[np.bool_], answer: NDArray[np.bool_], training: bool
    ) -> Examples:
        """Close the gaps between the tokens of `slots` `[n, pairs, 2 * motif]`, and shift the targets."""
        n = len(slots)
        present = present.reshape(n, -1)
        order = np.argsort(~present, axis=1, kind="stable")[:, : self.seq_len]
        there = np.take_along_axis(present, order, axis=1)
        tokens = np.where(there, np.take_along_axis(slots.reshape(n, -1), order, axis=1), self.pad_id)
        counts = there & (training | np.take_along_axis(answer.reshape(n, -1), order, axis=1))
        targets = no_targets(tokens)
        targets[:, :-1] = np.where(counts, tokens, IGNORE)[:, 1:]
        return self.pack(tokens, targets, lengths=there.sum(axis=1))


def _first_time(keys: Ints) -> NDArray[np.bool_]:
    """Whether a key `[n, pairs]` stands nowhere before in its row; True for `_EMPTY`."""
    order = np.argsort(keys, axis=1, kind="stable")
    ordered = np.take_along_axis(keys, order, axis=1)
    new = np.ones(keys.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    first[keys == _EMPTY] = True
    return first
