"""The longest sequence that a memory holds, from the peaks that a run measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.load import Run
from reports.points import Point, by_line, cost_points, modes, once, ordered_series
from reports.text import length, number

MIB_A_GIB = 1024
#: Columns of a table.
_MOST = 6


@dataclass(frozen=True)
class Longest:
    """What one series may reach in one mode within one limit.

    fits: the longest measured length within it, None where the shortest is too long already. next: what happened
    at the next length that was tried; empty where none was, so that more may fit.
    """

    mode: str
    series: str
    method: str
    limit_mib: int
    fits: int | None
    needs_mib: float
    next: str

    @property
    def at_least(self) -> bool:
        """Whether nothing says that a longer sequence does not fit."""
        return self.fits is not None and not self.next


def with_footprint(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with a column `footprint_mib`: what a call holds at its peak, inputs and parameters included."""
    return frame.assign(footprint_mib=frame["peak_mib"] + frame["inputs_mib"] + frame["parameters_mib"])


def footprint_points(frame: pd.DataFrame) -> list[Point]:
    """The points of `with_footprint` at (mode, length)."""
    return once(
        frame, "footprint", make=lambda: cost_points(with_footprint(frame), "footprint_mib", ("mode", "seq_len"))
    )


def limits(run: Run) -> list[int]:
    """Powers of two in MiB up to the first that holds every measured footprint; [] without one."""
    footprints = with_footprint(run.efficiency)["footprint_mib"].dropna()
    if footprints.empty:
        return []
    top = max(0, math.ceil(math.log2(max(1.0, float(footprints.max())))))
    least = math.ceil(math.log2(max(1.0, float(footprints.min()))))
    return [2**power for power in range(max(least, top - _MOST + 1), top + 1)]


def size(mib: float) -> str:
    """Memory as a reader says it: 512 MiB, 8 GiB."""
    return f"{number(mib / MIB_A_GIB)} GiB" if mib >= MIB_A_GIB else f"{number(mib)} MiB"


def whole_size(mib: int) -> str:
    """A power of two of memory: 512 MiB, 8 GiB."""
    return f"{mib // MIB_A_GIB} GiB" if mib >= MIB_A_GIB else f"{mib} MiB"


def longest(run: Run) -> list[Longest]:
    """An answer for each mode, series and limit of a narrowed run."""
    frame = run.efficiency
    lines = by_line(footprint_points(frame))
    within = limits(run)
    found = []
    for mode in modes(frame):
        for series, method in ordered_series(frame):
            line = sorted(lines.get((series, mode), []), key=_length)
            if not any(point.measured for point in line):
                continue
            found += [_within(mode, series, method, limit, line) for limit in within]
    return found


def _within(mode: str, series: str, method: str, limit: int, line: Sequence[Point]) -> Longest:
    fitting = [point for point in line if point.measured and point.value <= limit]
    best = max(fitting, key=_length, default=None)
    after = [point for point in line if best is None or _length(point) > _length(best)]
    # A failure of another kind (a timeout) says nothing about memory.
    telling = [point for point in after if point.measured or "oom" in point.failure or "skipped" in point.failure]
    then = ""
    if telling:
        first = telling[0]
        what = f"needs {size(first.value)}" if first.measured else f"{first.failure}: {first.reason}"
        then = f"{length(_length(first))} {what}"
    return Longest(
        mode, series, method, limit, _length(best) if best else None, best.value if best else math.nan, then
    )


def _length(point: Point) -> int:
    return int(str(point.place[1]))
