"""Accuracy by the tags of the examples: which lengths, which depths are got right."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor

from tasks.registry import IGNORE, Examples

Kind = tuple[tuple[str, float], ...]


class Breakdown:
    """Counts right answers and targets for each combination of tag values that occurs."""

    def __init__(self) -> None:
        self._correct: Counter[Kind] = Counter()
        self._counted: Counter[Kind] = Counter()

    def add(self, batch: Examples, logits: Tensor) -> None:
        """Count a batch with logits `[n, ..., classes]`; nothing without tags."""
        if not batch.tags:
            return
        counts = batch.targets != IGNORE
        right = (logits.argmax(dim=-1).to(batch.targets.device) == batch.targets) & counts
        correct, counted = (mask.reshape(len(batch), -1).sum(dim=1).tolist() for mask in (right, counts))
        names = sorted(batch.tags)
        rows = zip(*(batch.tags[name].tolist() for name in names), strict=True)
        for row, values in enumerate(rows):
            kind = tuple(zip(names, map(float, values), strict=True))
            self._correct[kind] += correct[row]
            self._counted[kind] += counted[row]

    def groups(self) -> list[dict[str, Any]]:
        """`tags`, `correct` and `count` of each combination with a target, in the order of the tags."""
        return [
            {"tags": {n: _plain(v) for n, v in kind}, "correct": self._correct[kind], "count": count}
            for kind, count in sorted(self._counted.items())
            if count
        ]


def _plain(value: float) -> float | int:
    return int(value) if value.is_integer() else value
