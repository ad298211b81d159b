"""Estimates with intervals: medians of samples, ratios within rounds, shares of right answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """The median and its percentile-bootstrap interval.

    Percentiles of few samples cover a little less than they say: with five the interval is their whole range, and
    that covers 94 %. Hence the floor on the number of rounds.
    """
    from scipy.stats import bootstrap

    values = np.asarray(samples, dtype=float)
    middle = float(np.median(values))
    if np.ptp(values) == 0:
        return Estimate(middle, middle, middle)
    found = bootstrap(
        (values,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(middle, float(found.low), float(found.high))


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


def speedup(samples: Iterable[dict[str, Any]]) -> Estimate:
    """The median over rounds of baseline time / method time: above 1 the method is faster."""
    walls = by_subject(samples, "wall_s")
    return median([base / own for own, base in zip(walls["method"], walls["baseline"], strict=True)])
