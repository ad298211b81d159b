"""How one figure of a cell has changed between two result sets: by how much, and whether beyond its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reports.points import Row

CONFIDENCE = 0.95
RESAMPLES = 2000

#: Peaks that differ by less are the same: what the kernel's marks may lag behind (docs/metrics.md).
SAME_PEAK_MIB = 0.25

#: Errors that differ by less are the same: rounding in float32.
SAME_ERROR = 1e-4

Verdict = Literal["worse", "better", "same"]


@dataclass(frozen=True)
class Change:
    """What became of one figure of one cell.

    value: after / before of a speedup, a peak or an error, after - before of an accuracy, with its interval (NaN
    for a peak and an error, which have none). status: set when the cell ended differently, without a value then.
    """

    cell: str
    figure: str
    verdict: Verdict
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    status: str = ""
    large: bool = True

    @property
    def regression(self) -> bool:
        """Worse by more than the threshold, and beyond the noise."""
        return self.verdict == "worse" and self.large

    def line(self) -> str:
        """One line of the printed table."""
        if self.status:
            return f"{self.verdict:<7}{self.cell:<58} {self.status}"
        sign, unit = ("+" if self.value > 0 else "", "") if self.figure == "accuracy" else ("", "x")
        spread = "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.verdict:<7}{self.cell:<58} {self.figure} {sign}{self.value:.3f}{unit}{spread}"


def quotient(
    name: str, before: NDArray[np.float64], after: NDArray[np.float64], threshold: float, seed: int = 0
) -> Change:
    """The change of a median ratio, by bootstrap over the rounds of both; above 1 the method became faster."""
    rng = np.random.default_rng(seed)
    medians = [np.median(rng.choice(rounds, (RESAMPLES, len(rounds))), axis=1) for rounds in (before, after)]
    value = float(np.median(after) / np.median(before))
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(q) for q in np.quantile(medians[1] / medians[0], (tail, 1 - tail)))
    verdict: Verdict = "worse" if high < 1 else "better" if low > 1 else "same"
    return Change(name, "speedup", verdict, value, low, high, large=value < 1 - threshold)


def difference(name: str, old: Row, new: Row, threshold: float) -> Change:
    """The change of an accuracy, in points of 1; the interval is Newcombe's (1998), from both Wilson intervals."""
    p, p_low, p_high = (number(old, f"accuracy{end}") for end in ("", "_low", "_high"))
    q, q_low, q_high = (number(new, f"accuracy{end}") for end in ("", "_low", "_high"))
    value = q - p
    low = value - math.hypot(q - q_low, p_high - p)
    high = value + math.hypot(q_high - q, p - p_low)
    verdict: Verdict = "worse" if high < 0 else "better" if low > 0 else "same"
    return Change(name, "accuracy", verdict, value, low, high, large=value < -threshold)


def growth(name: str, figure: str, before: float, after: float, threshold: float, noise: float) -> Change:
    """The change of a figure without an interval: the same under the threshold, or where apart by `noise` only."""
    value = after / before if before else math.inf if after else 1.0
    apart = abs(after - before) > noise
    verdict: Verdict = "same"
    if apart and value > 1 + threshold:
        verdict = "worse"
    elif apart and value < 1 - threshold:
        verdict = "better"
    return Change(name, figure, verdict, value)


def number(row: Row, column: str) -> float:
    """A field of a row; NaN where it is empty."""
    return float(str(row[column]))
