"""Points as a grid of series by place, the best of a column bold where it is distinguishable from all others."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

from reports.points import Point, tidy
from reports.tables.base import Cell, Table
from reports.text import DASH, interval

Show = Callable[[float, float, float], str]
#: A series at a place: one cell of a grid.
Key = tuple[str, tuple[object, ...]]


def grid(
    points: Sequence[Point],
    *,
    name: str,
    title: str,
    caption: str,
    columns: Sequence[tuple[object, ...]],
    column_names: Sequence[str],
    place_names: Sequence[str],
    bold: Collection[Key] = (),
    show: Show = interval,
) -> Table:
    """One row a series, one column a place; what `best` found stands bold, and as `best` in the data."""
    by_place = {(point.series, point.place): point for point in points}
    series = list(dict.fromkeys(point.series for point in points))
    rows = []
    for label in series:
        cells = [Cell(label)]
        for place in columns:
            key = (label, place)
            cells.append(cell(by_place.get(key), bold=key in bold, show=show))
        rows.append(tuple(cells))
    data = tidy(points, place_names).assign(best=[(point.series, point.place) in bold for point in points])
    return Table(name, title, caption, ("method", *column_names), tuple(rows), data)


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


def best(points: Sequence[Point], *, higher: bool) -> set[Key]:
    """The best of each place, where there is another and the interval of every other lies apart from its own.

    Nothing of a place where an interval is unknown: what has none cannot be told from anything.
    """
    places: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        places.setdefault(point.place, []).append(point)
    winners = (_winner(here, higher) for here in places.values())
    return {(point.series, point.place) for point in winners if point is not None}


def _winner(points: Sequence[Point], higher: bool) -> Point | None:
    here = [point for point in points if point.measured]
    if len(here) < 2 or not all(math.isfinite(point.low + point.high) for point in here):
        return None
    first, *others = sorted(here, key=lambda point: -point.value if higher else point.value)
    apart = all(other.high < first.low if higher else other.low > first.high for other in others)
    return first if apart else None
