"""Points as a grid of series by place, the best of a column bold where it is distinguishable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from reports.points import Point, tidy
from reports.tables.base import Cell, Table
from reports.text import DASH, interval

Show = Callable[[float, float, float], str]


def grid(
    points: Sequence[Point],
    *,
    name: str,
    title: str,
    caption: str,
    columns: Sequence[tuple[object, ...]],
    column_names: Sequence[str],
    place_names: Sequence[str],
    higher_is_better: bool | None,
    show: Show = interval,
) -> Table:
    """One row a series, one column a place; `higher_is_better` None marks nothing as best."""
    by_place = {(point.series, point.place): point for point in points}
    series = list(dict.fromkeys(point.series for point in points))
    best = {place: _best(points, place, higher_is_better) for place in columns}
    rows = []
    for label in series:
        cells = [Cell(label)]
        for place in columns:
            point = by_place.get((label, place))
            cells.append(cell(point, bold=point is not None and point is best[place], show=show))
        rows.append(tuple(cells))
    return Table(name, title, caption, ("method", *column_names), tuple(rows), tidy(points, place_names))


def cell(point: Point | None, *, bold: bool = False, show: Show = interval) -> Cell:
    """What a grid shows of a point: its value, else the word for its failure, else a dash."""
    if point is None:
        return Cell(DASH, "empty", note="not in the plan of this run")
    if point.failure:
        return Cell(point.failure, "failure", note=point.reason)
    if not point.measured:
        return Cell(DASH, "empty", note="not measured")
    text = show(point.value, point.low, point.high) + ("°" if point.degenerate else "")
    return Cell(text, "number", bold, "equals full attention here" if point.degenerate else point.way)


def _best(points: Sequence[Point], place: tuple[object, ...], higher: bool | None) -> Point | None:
    """The best point of a place, if its interval lies apart from that of every other."""
    here = [point for point in points if point.place == place and point.measured]
    if higher is None or len(here) < 2:
        return None
    sign = -1 if higher else 1
    first, *others = sorted(here, key=lambda point: sign * point.value)
    if not math.isfinite(first.low + first.high):
        return None
    apart = all(
        other.high < first.low if higher else other.low > first.high
        for other in others
        if math.isfinite(other.low + other.high)
    )
    bounded = all(math.isfinite(other.low + other.high) for other in others)
    return first if apart and bounded else None
