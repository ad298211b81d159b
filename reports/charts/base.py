"""What an interactive chart is made of; reports/script/ draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from reports.points import Point
from reports.style import Style, series_styles

Scale = Literal["log2", "log", "linear", "series"]
Text = Literal["length", "number", "exact", "percent"]


@dataclass(frozen=True)
class Axis:
    """An axis: `scale` series lists the series by name, `text` says how its numbers are written."""

    label: str
    scale: Scale
    text: Text = "number"


@dataclass(frozen=True)
class Series:
    """One line of the chart, how it looks, and what the legend says of it."""

    name: str
    method: str
    style: Style
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """One point: where it lies, its interval, and the rows of the CSV file that it was made from.

    `failure` is the status where there is no value, else empty. NaN stands for what is unknown.
    """

    panel: str
    series: str
    x: float
    y: float
    rows: tuple[int, ...]
    x_low: float = math.nan
    x_high: float = math.nan
    y_low: float = math.nan
    y_high: float = math.nan
    size: float = math.nan
    failure: str = ""
    reason: str = ""
    note: str = ""
    hollow: bool = False
    front: bool = False
    #: In a bare chart: which marks of a series are one line.
    line: str = ""


class Reference(NamedTuple):
    """A line at a fixed value of a panel ("" for all), or a band where `high` is above `low`."""

    panel: str
    low: float
    high: float
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """Marks in panels. `table` holds their rows, `columns` are those shown first; `value` is the measured axis.

    `joined` draws lines through the marks of a series, `bare` only lines, `ends` writes a line's name at its end,
    `size` says what the area stands for.
    """

    table: str
    columns: tuple[str, ...]
    panels: tuple[str, ...]
    series: tuple[Series, ...]
    marks: tuple[Mark, ...]
    x: Axis
    y: Axis
    value: Literal["x", "y"] = "y"
    joined: bool = True
    bare: bool = False
    ends: bool = False
    size: str = ""
    references: tuple[Reference, ...] = ()


def series_of(
    methods: tuple[str, ...], pairs: Iterable[tuple[str, str]], notes: Mapping[str, str] | None = None
) -> tuple[Series, ...]:
    """A `Series` for each (name, method), looking as in the figures; `notes` by name."""
    pairs = list(pairs)
    book = series_styles(methods, pairs)
    return tuple(Series(name, method, book[name], (notes or {}).get(name, "")) for name, method in pairs)


def cost_marks(points: Sequence[Point]) -> tuple[Mark, ...]:
    """Marks of points at (mode, length): the panel is the mode."""
    return tuple(
        Mark(
            panel=str(point.place[0]),
            series=point.series,
            x=float(str(point.place[1])),
            y=point.value,
            y_low=point.low,
            y_high=point.high,
            rows=point.rows,
            failure=point.failure,
            reason=point.reason,
            note="equals full attention here" if point.degenerate else "",
            hollow=point.degenerate,
        )
        for point in points
        if point.measured or point.failure
    )
