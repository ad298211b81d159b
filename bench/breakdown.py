"""Accuracy by the tags of the examples: which lengths, which depths are got right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bench.training.distributed import Group
from tasks.registry import IGNORE

Kind = tuple[tuple[str, float], ...]


class Breakdown:
    """Counts right answers and targets for each combination of tag values that occurs."""

    def __init__(self) -> None:
        self._correct: Counter[Kind] = Counter()
        self._counted: Counter[Kind] = Counter()

    def add(self, tags: Mapping[str, Tensor] | None, targets: Tensor, logits: Tensor) -> None:
        """Count rows: tags `[n]` each, targets `[n, ...]`, logits `[n, ..., classes]`; nothing without tags."""
        if not tags:
            return
        counts = targets != IGNORE
        right = (logits.argmax(dim=-1) == targets) & counts
        correct, counted = (mask.reshape(len(targets), -1).sum(dim=1).tolist() for mask in (right, counts))
        names = sorted(tags)
        rows = zip(*(tags[name].tolist() for name in names), strict=True)
        for row, values in enumerate(rows):
            kind = tuple(zip(names, map(float, values), strict=True))
            self._correct[kind] += correct[row]
            self._counted[kind] += counted[row]

    def gather(self, group: Group) -> None:
        """Add up what the processes of a group have counted; all of them then hold the sum."""
        correct, counted = zip(*group.gathered((self._correct, self._counted)), strict=True)
        self._correct, self._counted = sum(correct, Counter()), sum(counted, Counter())

    def groups(self) -> list[dict[str, Any]]:
        """`tags`, `correct` and `count` of each combination with a target, in the order of the tags."""
        return [
            {"tags": {n: _plain(v) for n, v in kind}, "correct": self._correct[kind], "count": count}
            for kind, count in sorted(self._counted.items())
            if count
        ]


def _plain(value: float) -> float | int:
    return int(value) if value.is_integer() else value
