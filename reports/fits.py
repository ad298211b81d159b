"""What the points say together: scaling exponents, crossover lengths, and means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.stats import linregress, t

#: Below this length fixed overhead, not the algorithm, sets the time.
SHORTEST = 512
_FEWEST = 3
#: No law is trusted further than so many times the longest measured length.
FURTHEST = 16

Verdict = Literal[
    "crosses", "always faster", "no difference", "not within the measured range", "extrapolated", "baseline"
]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, over `count` observations, and how the interval was made."""

    value: float
    low: float
    high: float
    count: int
    way: str


@dataclass(frozen=True)
class Crossover:
    """Where a speedup passes 1; an end of the interval is None where it lies outside the measured range."""

    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None


def exponent(lengths: Sequence[float], values: Sequence[float], *, shortest: float = SHORTEST) -> Estimate | None:
    """The slope of log value over log length, with a t-interval; None with fewer than three lengths."""
    pairs = _fitted(lengths, values, shortest)
    return None if pairs is None else _line_through(tuple(pairs))


@lru_cache(maxsize=4096)
def _line_through(pairs: tuple[tuple[float, float], ...]) -> Estimate:
    """Tables, figures and charts ask for the slopes of the same lines."""
    fit = linregress([math.log(n) for n, _ in pairs], [math.log(v) for _, v in pairs])
    half = float(t.ppf(0.975, len(pairs) - 2)) * float(fit.stderr)
    slope = float(fit.slope)
    return Estimate(slope, slope - half, slope + half, len(pairs), "least squares on logarithms")


def predict(
    lengths: Sequence[float], values: Sequence[float], at: float, *, shortest: float = SHORTEST
) -> Estimate | None:
    """What the line of `exponent` gives at a length that was not measured, with its 95 % prediction interval.

    The interval is that of a new observation under the fitted law. It knows nothing of what the law may miss:
    a cache that overflows, a kernel that changes. None with fewer than three lengths.
    """
    pairs = _fitted(lengths, values, shortest)
    if pairs is None:
        return None
    x, y = (np.log(np.array(side, dtype=float)) for side in zip(*pairs, strict=True))
    fit = linregress(x, y)
    rest = y - fit.intercept - fit.slope * x
    spread = math.sqrt(float(rest @ rest) / (len(x) - 2))
    far = (math.log(at) - x.mean()) ** 2 / float(((x - x.mean()) ** 2).sum())
    half = float(t.ppf(0.975, len(x) - 2)) * spread * math.sqrt(1 + 1 / len(x) + far)
    middle = float(fit.intercept + fit.slope * math.log(at))
    value, low, high = (float(np.exp(end)) for end in (middle, middle - half, middle + half))
    return Estimate(value, low, high, len(x), "the fitted power law")


def _fitted(
    lengths: Sequence[float], values: Sequence[float], shortest: float
) -> list[tuple[float, float]] | None:
    """The (length, value) pairs that a law is fitted to; None with fewer than three lengths."""
    pairs = [(n, v) for n, v in zip(lengths, values, strict=True) if n >= shortest and v > 0]
    return pairs if len({n for n, _ in pairs}) >= _FEWEST else None


def crossover(
    lengths: Sequence[float], speedups: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> Crossover:
    """The length from which the speedup stays above 1, interpolated between measured points.

    The interval is where the upper and the lower ends of the speedup intervals pass 1.
    """
    points = sorted(zip(lengths, speedups, lows, highs, strict=True))
    if not points:
        return Crossover("not within the measured range")
    if all(low <= 1 <= high for _, _, low, high in points):
        return Crossover("no difference")
    latest = _crossing([(n, low) for n, _, low, _ in points])
    if all(speedup > 1 for _, speedup, _, _ in points):
        return Crossover("always faster", high=latest)
    value = _crossing([(n, speedup) for n, speedup, _, _ in points])
    if value is None:
        return Crossover("not within the measured range")
    return Crossover("crosses", value, low=_crossing([(n, high) for n, _, _, high in points]), high=latest)


def extrapolated(lengths: Sequence[float], speedups: Sequence[float]) -> Crossover | None:
    """Where the line through the logarithms passes 1 beyond the longest length, at most `FURTHEST` times it.

    The interval is where its 95 % band passes 1 (Fieller). None with fewer than three lengths, where the line does
    not evidently rise, or where it passes elsewhere.
    """
    pairs = [(math.log(n), math.log(s)) for n, s in zip(lengths, speedups, strict=True) if n >= SHORTEST and s > 0]
    if len({x for x, _ in pairs}) < _FEWEST:
        return None
    xs, ys = zip(*pairs, strict=True)
    fit, count = linregress(xs, ys), len(pairs)
    slope, middle, height = float(fit.slope), sum(xs) / count, sum(ys) / count
    noise = (float(t.ppf(0.975, count - 2)) * float(fit.stderr)) ** 2
    rise = slope**2 - noise
    if slope <= 0 or rise <= 0:
        return None
    value = middle - height / slope
    if not max(xs) < value <= max(xs) + math.log(FURTHEST):
        return None
    spread = noise * sum((x - middle) ** 2 for x in xs) / count
    root = math.sqrt(max((height * slope) ** 2 - rise * (height**2 - spread), 0.0))
    low, high = (middle + (-height * slope + sign * root) / rise for sign in (-1, 1))
    return Crossover("extrapolated", math.exp(value), math.exp(low), math.exp(high))


def _crossing(curve: Sequence[tuple[float, float]]) -> float | None:
    """The last place where the curve passes 1 upwards, if it ends above 1."""
    if curve[-1][1] <= 1:
        return None
    for (n0, s0), (n1, s1) in reversed(list(pairwise(curve))):
        if s0 <= 1 < s1:
            part = math.log(1 / s0) / math.log(s1 / s0) if s0 > 0 else 1.0
            return float(math.exp(math.log(n0) + part * math.log(n1 / n0)))
    return None


def covers_one(low: float, high: float) -> bool:
    """Whether a speedup interval leaves "no difference" possible; an unknown interval does."""
    return not (low > 1 or high < 1)


def over_seeds(values: Sequence[float], low: float, high: float) -> Estimate:
    """Mean and Student-t interval over seeds, never narrower than the interval of a seed (`low`, `high`).

    All seeds share one test set, so that its sampling error stays however well they agree.
    """
    count = len(values)
    mean = sum(values) / count
    if count == 1:
        return Estimate(mean, low, high, 1, "one seed")
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(t.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    way = f"Student t, {count} seeds"
    # With the NaN of an unknown interval second, min and max keep the first.
    return Estimate(mean, min(mean - half, low), max(mean + half, high), count, way)
