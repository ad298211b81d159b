"""Tasks whose rows are read from files: disjoint splits by content, and balanced draws from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks.base import Examples, SplitName, Task, majority_share
from tasks.seeds import generator
from tasks.sources import Source
from tasks.splits import balanced_order, check_at_least

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """The rows of one file, encoded.

    keys: what each row is, for telling equal ones.
    labels: `[n]`, of any integer type.
    take: row numbers `[m]` to their examples.
    """

    keys: Sequence[bytes]
    labels: NDArray[np.integer[Any]]
    take: Callable[[Ints], Examples]


class FileTask(Task):
    """Train and test are the files' own; dev is a file of its own, or drawn from train.

    Rows that encode alike (after cutting, too) never stand in two splits: of train and dev we drop what is in
    test, of train what is in dev. Test is whole, as published, with what repeats in it.

    train_examples, dev_examples, test_examples: None takes all there are (of a dev drawn from train:
    `held_out`), a number draws as many with the seed, the classes as equally often as they allow.
    dev_from_test: dev is test once more, as in Long Range Arena where a set has no dev; else it is left out.
    """

    #: Size of a dev split drawn from train; None where it has a file.
    held_out: ClassVar[int | None] = None

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        data_dir: str | None,
        counts: Mapping[SplitName, int | None],
        dev_from_test: bool = False,
    ) -> None:
        super().__init__(seq_len=seq_len, seed=seed)
        check_at_least(seq_len, 1, "seq_len")
        for name, count in counts.items():
            if count is not None:
                check_at_least(count, 1, f"{name}_examples")
        self.data_dir, self._counts, self.dev_from_test = data_dir, dict(counts), dev_from_test

    @abstractmethod
    def sources(self) -> Sequence[Source]:
        """The data sets that are read."""

    @abstractmethod
    def rows(self, split: SplitName) -> Rows:
        """The rows of a split's file; `dev` is asked for only where it has one."""

    def why_missing(self) -> str | None:
        """See `Task`: the first source that is not there."""
        return next(filter(None, (source.why_missing(self.data_dir) for source in self.sources())), None)

    @property
    def chance(self) -> float:
        """Share of the most frequent label of the test split."""
        return majority_share(self.examples("test").targets)

    def examples(self, split: SplitName) -> Examples:
        """The whole split; targets int64 `[n]`."""
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[SplitName, Examples]:
        test, train = self.rows("test"), self.rows("train")
        taken = set(test.keys)
        if self.dev_from_test:
            dev, candidates = test, np.arange(len(test.keys))
        else:
            dev = train if self.held_out is not None else self.rows("dev")
            candidates = _without(dev.keys, taken, once=True)
        chosen_dev = self._draw("dev", candidates, dev.labels)
        # of a file of its own all rows, so that train does not depend on how many are drawn
        taken |= set(dev.keys) if dev is not train else {train.keys[row] for row in chosen_dev}
        return {
            "train": train.take(self._draw("train", _without(train.keys, taken), train.labels)),
            "dev": dev.take(chosen_dev),
            "test": test.take(self._draw("test", np.arange(len(test.keys)), test.labels)),
        }

    def _draw(self, split: SplitName, candidates: Ints, labels: NDArray[np.integer[Any]]) -> Ints:
        """Sorted row numbers out of `candidates`."""
        count = self._counts[split]
        if count is None and split == "dev" and not self.dev_from_test:
            count = self.held_out
        if count is None:
            count = max(len(candidates), 1)
        if count > len(candidates):
            raise ValueError(
                f"{split}_examples={count}: expected at most {len(candidates)}, "
                f"the rows left for it in {self.sources()[0].name}"
            )
        order = balanced_order(labels[candidates], generator(self.seed, split))
        return np.sort(candidates[order[:count]])


def _without(keys: Sequence[bytes], taken: set[bytes], once: bool = False) -> Ints:
    """Numbers of the rows whose key is not in `taken`; with `once`, only the first of equal ones."""
    seen = set(taken)
    found = []
    for row, key in enumerate(keys):
        if key not in seen:
            found.append(row)
            if once:
                seen.add(key)
    return np.array(found, dtype=np.int64)
