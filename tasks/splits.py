"""Three disjoint splits for tasks whose examples can be drawn at will, and balanced draws from rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base import Examples, SplitName, joined
from tasks.data import row_digests
from tasks.seeds import generator

#: (generator, n) -> n examples without tags.
Draw = Callable[[np.random.Generator, int], Examples]

#: Draws of a held-out split that bring nothing new before we call the space of examples used up.
_PATIENCE = 20


@dataclass(frozen=True)
class Part:
    """`count` examples of one kind; `tags` are the same for all of them, and of the same names in all parts."""

    draw: Draw
    count: int
    tags: Mapping[str, float] = field(default_factory=dict)


def disjoint_splits(parts: Mapping[SplitName, Sequence[Part]], seed: int) -> dict[SplitName, Examples]:
    """Draw the splits, each part in turn, from one independent stream a split.

    Train is drawn as it comes. From dev and test, rows that stand in an earlier split or earlier in
    their own are replaced by new ones, so the counts hold. ValueError when the task has too few
    different examples for that.
    """
    seen: set[bytes] = set()
    splits: dict[SplitName, Examples] = {}
    for name, wanted in parts.items():
        rng = generator(seed, name)
        drawn: list[Examples] = []
        for part in (part for part in wanted if part.count):
            if name == "train":
                examples = part.draw(rng, part.count)
                seen.update(row_digests(examples.tokens.numpy()))
            else:
                examples = _only_new(part, rng, seen)
                if len(examples) < part.count:
                    total, have = sum(p.count for p in wanted), sum(map(len, [*drawn, examples]))
                    raise ValueError(
                        f"{name}_examples={total}: only {have} different examples could be found outside the "
                        f"other splits; ask for fewer or make the task larger"
                    )
            drawn.append(_tagged(examples, part.tags))
        splits[name] = joined(drawn)
    return splits


def _only_new(part: Part, rng: np.random.Generator, seen: set[bytes]) -> Examples:
    """Examples of the part that are not in `seen`, and now are; fewer than its count when there are no more."""
    kept: list[Examples] = []
    have, misses = 0, 0
    while have < part.count and misses < _PATIENCE:
        examples = part.draw(rng, part.count)
        new: list[int] = []
        for row, digest in enumerate(row_digests(examples.tokens.numpy())):
            if digest not in seen and have + len(new) < part.count:
                seen.add(digest)
                new.append(row)
        kept.append(examples.rows(torch.tensor(new, dtype=torch.int64)))
        have += len(new)
        misses = 0 if new else misses + 1
    return joined(kept)


def _tagged(examples: Examples, tags: Mapping[str, float]) -> Examples:
    columns = {name: torch.full((len(examples),), value, dtype=torch.float64) for name, value in tags.items()}
    return replace(examples, tags=columns or None)


def split_counts(train: int, dev: int, test: int) -> dict[SplitName, int]:
    """The number of examples of each split, each at least 1; ValueError names `train_examples` and so on."""
    counts: dict[SplitName, int] = {"train": train, "dev": dev, "test": test}
    for name, count in counts.items():
        check_at_least(count, 1, f"{name}_examples")
    return counts


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """`total` cut into whole numbers in the ratio of `shares`, by largest remainder; their sum is `total`."""
    exact = total * np.asarray(shares, dtype=np.float64) / sum(shares)
    whole = np.floor(exact).astype(np.int64)
    most_cut = np.argsort(whole - exact, kind="stable")
    whole[most_cut[: total - int(whole.sum())]] += 1
    return [int(count) for count in whole]


def check_at_least(value: int, smallest: int, name: str, why: str = "") -> None:
    """ValueError that names the parameter when `value` is under `smallest`."""
    if value < smallest:
        raise ValueError(f"{name}={value}: expected at least {smallest}{f' ({why})' if why else ''}")


def balanced_order(labels: NDArray[np.integer[Any]], rng: np.random.Generator) -> NDArray[np.int64]:
    """int64 `[n]`: the rows in random order, every prefix with as many of each class as it can have."""
    order = rng.permutation(len(labels))
    shuffled = labels[order]
    rank = np.empty(len(labels), dtype=np.int64)  # among the rows of its class
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        rank[members] = np.arange(len(members))
    return order[np.argsort(rank, kind="stable")]
