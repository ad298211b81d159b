"""Three disjoint splits for tasks whose examples can be drawn at will, and balanced draws from rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base import Examples, SplitName
from tasks.data import row_digests
from tasks.seeds import generator

Ints = NDArray[np.int64]
#: (generator, n) -> tokens `[n, seq_len]`, targets `[n]` or `[n, seq_len]`.
Draw = Callable[[np.random.Generator, int], tuple[Ints, Ints]]

#: Draws of a held-out split that bring nothing new before we call the space of examples used up.
_PATIENCE = 20


def disjoint_splits(draw: Draw, seed: int, counts: Mapping[SplitName, int]) -> dict[SplitName, Examples]:
    """Draw the splits from independent streams; all examples without padding.

    Train is drawn as it comes. From dev and test, rows that stand in an earlier split or earlier in
    their own are replaced by new ones, so the counts hold. ValueError when the task has too few
    different examples for that.
    """
    seen: set[bytes] = set()
    splits: dict[SplitName, Examples] = {}
    for name, count in counts.items():
        rng = generator(seed, name)
        tokens, targets = draw(rng, count)
        if name == "train":
            seen.update(row_digests(tokens))
        else:
            tokens, targets = _only_new(draw, rng, count, (tokens, targets), seen, name)
        lengths = torch.full((count,), tokens.shape[1], dtype=torch.int64)
        splits[name] = Examples(torch.from_numpy(tokens), torch.from_numpy(targets), lengths)
    return splits


def _only_new(
    draw: Draw,
    rng: np.random.Generator,
    count: int,
    first: tuple[Ints, Ints],
    seen: set[bytes],
    name: SplitName,
) -> tuple[Ints, Ints]:
    kept: list[tuple[Ints, Ints]] = []
    have, misses = 0, 0
    tokens, targets = first
    while True:
        new: list[int] = []
        for row, digest in enumerate(row_digests(tokens)):
            if digest not in seen and have + len(new) < count:
                seen.add(digest)
                new.append(row)
        kept.append((tokens[new], targets[new]))
        have += len(new)
        misses = 0 if new else misses + 1
        if have == count:
            return np.concatenate([k[0] for k in kept]), np.concatenate([k[1] for k in kept])
        if misses == _PATIENCE:
            raise ValueError(
                f"{name}_examples={count}: only {have} different examples could be found outside the other "
                f"splits; ask for fewer or make the task larger"
            )
        tokens, targets = draw(rng, count)


def check_at_least(value: int, smallest: int, name: str, why: str = "") -> None:
    """ValueError that names the parameter when `value` is under `smallest`."""
    if value < smallest:
        raise ValueError(f"{name}={value}: expected at least {smallest}{f' ({why})' if why else ''}")


def balanced_order(labels: NDArray[np.integer[Any]], rng: np.random.Generator) -> Ints:
    """int64 `[n]`: the rows in random order, every prefix with as many of each class as it can have."""
    order = rng.permutation(len(labels))
    shuffled = labels[order]
    rank = np.empty(len(labels), dtype=np.int64)  # among the rows of its class
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        rank[members] = np.arange(len(members))
    return order[np.argsort(rank, kind="stable")]
