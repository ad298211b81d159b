"""Estimates with intervals: medians of samples, ratios within rounds, shares of right answers."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

CONFIDENCE = 0.95
#: How many times the chance to lie on one side of an interval goes into 1.
TAILS = round(2 / (1 - CONFIDENCE))


@dataclass(frozen=True)
class Estimate:
    """A value and a 95 % interval around it."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """In other units."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def inverse(self, numerator: float) -> Estimate:
        """numerator / value, as a rate from a time."""
        return Estimate(numerator / self.value, numerator / self.high, numerator / self.low)


def median(samples: Sequence[float]) -> Estimate:
    """The median and its interval between order statistics, interpolated (Hettmansperger and Sheather 1986).

    Its coverage hardly depends on the distribution, however few the independent samples: most cells have six to
    eight rounds, whose bootstrap covers too little, or, widened for that, near their whole range. No interval of
    less than six samples covers 95 %; theirs is the range.
    """
    ordered = sorted(samples)
    middle = statistics.median(ordered)
    rank, inwards = _between(len(ordered))
    if rank == 0:
        return Estimate(middle, ordered[0], ordered[-1])
    low = ordered[rank - 1] + inwards * (ordered[rank] - ordered[rank - 1])
    high = ordered[-rank] - inwards * (ordered[-rank] - ordered[-rank - 1])
    return Estimate(middle, low, high)


@lru_cache
def _between(count: int) -> tuple[int, float]:
    """(r, f): where the interval of so many samples ends, the share f of the way from the r-th outermost inwards.

    r is the last that covers 95 % by itself, 0 where none does. Counted in whole numbers, of the 2**count equally
    likely ways in which samples lie about the median.
    """
    everything, rank = 2**count, 0
    below, here = 0, 1  # ways with fewer than `rank` samples under the median, and with just so many
    while (below + here) * TAILS <= everything:
        below += here
        here = here * (count - rank) // (rank + 1)
        rank += 1
    if rank == 0:
        return 0, 0.0
    spare = (everything - below * TAILS) / (here * TAILS)  # of the coverage that the next rank would give up
    return rank, (count - rank) * spare / (rank + (count - 2 * rank) * spare)


def share(successes: int, trials: int) -> Estimate:
    """A proportion with its Wilson interval."""
    from scipy.stats import binomtest

    found = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / trials, float(found.low), float(found.high))


def by_subject(samples: Iterable[dict[str, Any]], column: str) -> dict[str, list[float]]:
    """The values of one column, by subject, in the order of the rounds."""
    found: dict[str, list[float]] = defaultdict(list)
    for sample in sorted(samples, key=lambda item: item["round"]):
        found[sample["subject"]].append(sample[column])
    return dict(found)


def speedups(samples: Iterable[dict[str, Any]]) -> list[float]:
    """Baseline time / method time of each round: above 1 the method is faster."""
    walls = by_subject(samples, "wall_s")
    return [base / own for own, base in zip(walls["method"], walls["baseline"], strict=True)]


def speedup(samples: Iterable[dict[str, Any]]) -> Estimate:
    """The median of the rounds' speedups."""
    return median(speedups(samples))


def is_known(samples: Sequence[float], precision: float) -> bool:
    """Whether the median's 95 % interval reaches at most `precision` of it to either side.

    The interval here is not interpolated and so wider, for looking again and again makes any interval too narrow.
    """
    rank, _ = _between(len(samples))
    if rank == 0:
        return False
    ordered = sorted(samples)
    low, middle, high = ordered[rank - 1], statistics.median(ordered), ordered[-rank]
    return middle * (1 - precision) <= low and high <= middle * (1 + precision)
