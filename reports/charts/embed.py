"""Charts, and the rows behind them, as compact JSON texts in the page, each read when it is first needed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from reports.charts.base import Chart, Series
from reports.hardware import HARDWARE, hardware
from reports.load import Run
from reports.schema import RESULTS
from reports.style import outline

#: Of a mark: what a script reads. Names are short words of the chart, not of a CSV file.
_PLACE = ("x", "y", "x_low", "x_high", "y_low", "y_high", "size")
_FACTS = ("panel", "series", "failure", "reason", "note", "hollow", "front", "line")
#: Digits of a number in a mark, as in the CSV files: a median, or a mean, would have all of a float64.
_DIGITS = 9


def rows_texts(run: Run) -> dict[str, Markup]:
    """By table its rows, as in the CSV files."""
    return {table: _text(_table(run, table)) for table in RESULTS}


def chart_text(chart: Chart) -> Markup:
    """A chart with all its marks."""
    return _text(_chart(chart))


def _text(content: object) -> Markup:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    # Nothing in it can end the element that holds it.
    return Markup(text.replace("<", "\\u003c"))


def column(values: pd.Series) -> object:
    """Values of one type as JSON: {"all": value}, {"of": values, "at": places in them}, or the plain list.

    What is missing or not finite is null.
    """
    codes, distinct = pd.factorize(values)
    shown = [_plain(value) for value in distinct.tolist()]
    if (codes < 0).any():
        codes = np.where(codes < 0, len(shown), codes)
        shown.append(None)
    if len(shown) == 1:
        return {"all": shown[0]}
    places = codes.tolist()
    return [shown[place] for place in places] if len(shown) * 3 > len(places) else {"of": shown, "at": places}


def _table(run: Run, table: str) -> dict[str, Any]:
    frame: pd.DataFrame = getattr(run, table)
    columns = {str(name): column(frame[name]) for name in frame.columns}
    return {"count": len(frame), "columns": columns | {HARDWARE: column(_objects(hardware(run, frame)))}}


def _chart(chart: Chart) -> dict[str, Any]:
    marks = {name: column(_objects([_short(value) for value in _each(chart, name)])) for name in _PLACE}
    marks |= {name: column(_objects(_each(chart, name))) for name in _FACTS}
    marks["rows"] = [list(mark.rows) for mark in chart.marks]
    return {
        "table": chart.table,
        "columns": chart.columns,
        "panels": chart.panels,
        "series": [_series(one) for one in chart.series],
        "x": vars(chart.x),
        "y": vars(chart.y),
        "value": chart.value,
        "joined": chart.joined,
        "bare": chart.bare,
        "ends": chart.ends,
        "size": chart.size,
        "references": chart.references,
        "count": len(chart.marks),
        "marks": marks,
    }


def _each(chart: Chart, name: str) -> list[Any]:
    return list(map(attrgetter(name), chart.marks))


def _objects(values: Sequence[object]) -> pd.Series:
    return pd.Series(values, dtype="object")


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _series(one: Series) -> dict[str, str]:
    look = one.style
    return {
        "name": one.name,
        "method": one.method,
        "colour": look.colour,
        "dark": look.on_dark,
        "shape": outline(look.marker),
        "line": look.line,
        "note": one.note,
    }


def _plain(value: object) -> object:
    if value is None or value is pd.NA:
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        # A whole number without its ".0": the same to a reader of JSON, and shorter.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value
