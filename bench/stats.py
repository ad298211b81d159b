"""Estimates with intervals: medians of samples, ratios within rounds, shares of right answers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000


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


def median(samples: Sequence[float], seed: int = 0) -> Estimate:
    """The median and its expanded percentile-bootstrap interval.

    Percentiles of few samples cover less than they say (of 300 intervals of the baseline against itself 276 held
    1, of these 291), so they are taken further out, as far as Student's distribution is wider than a normal one
    (Hesterberg 2015, section 5.3).

    Resamples are those of `scipy.stats.bootstrap`, in a tenth of its time: which samples one draws does not depend
    on their values, so that its median follows from how often it drew each.
    """
    values, count = np.asarray(samples, dtype=float), len(samples)
    order = np.argsort(values)
    ordered = values[order]
    middle = float(ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    if ordered[0] == ordered[-1]:
        return Estimate(middle, middle, middle)
    below = np.zeros((2, RESAMPLES), dtype=np.int32)  # ranks of each resample's two middle draws, counted up
    drawn = np.zeros(RESAMPLES, dtype=np.int32)
    halves = np.array([[(count + 1) // 2], [count // 2 + 1]], dtype=np.int32)
    for times in _times_drawn(count, seed)[order]:
        drawn += times
        below += drawn < halves
    medians = ordered[below].sum(axis=0) / 2
    outside = tail(count) * (RESAMPLES - 1)
    first, between = int(outside), outside % 1
    last = RESAMPLES - 1 - first
    medians.partition((first, first + 1, last - 1, last))
    low = medians[first] + between * (medians[first + 1] - medians[first])
    high = medians[last] - between * (medians[last] - medians[last - 1])
    return Estimate(middle, float(low), float(high))


@lru_cache
def tail(count: int) -> float:
    """The share of resamples on each side of the interval of so many samples, 0.025 for very many."""
    from scipy.special import ndtr, stdtrit

    further = math.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 - CONFIDENCE) / 2)
    return float(ndtr(further))


@lru_cache(maxsize=32)
def _times_drawn(count: int, seed: int) -> NDArray[np.int32]:
    """How often each of `count` samples is in each resample, `[count, RESAMPLES]`."""
    drawn = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    cells = drawn + count * np.arange(RESAMPLES)[:, None]
    times = np.bincount(cells.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count)
    return np.ascontiguousarray(times.T.astype(np.int32))


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

    The interval here is the exact one between order statistics, which is wider than the bootstrap's, for looking
    again and again makes any interval too narrow.
    """
    ordered = sorted(samples)
    n = len(ordered)
    outside, left_out, chance = (1 - CONFIDENCE) / 2, 0, 0.5**n
    while chance <= outside:  # of at most `left_out` samples being below the median
        left_out += 1
        chance += math.comb(n, left_out) * 0.5**n
    if left_out == 0:
        return False
    low, middle, high = ordered[left_out - 1], float(np.median(ordered)), ordered[n - left_out]
    return middle * (1 - precision) <= low and high <= middle * (1 + precision)
