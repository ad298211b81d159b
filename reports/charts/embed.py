"""All charts and the rows behind them as one compact JSON text, which stands in the page once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import pandas as pd

from reports.charts.base import Chart, Series
from reports.hardware import HARDWARE, hardware
from reports.load import Run
from reports.schema import RESULTS
from reports.style import outline, styles

#: Of a mark: what a script reads. Names are short words of the chart, not of a CSV file.
_PLACE = ("panel", "series", "x", "y", "x_low", "x_high", "y_low", "y_high", "size")
_FACTS = ("failure", "reason", "note", "hollow", "front", "line")


def document(run: Run, charts: Mapping[str, Sequence[Chart]]) -> str:
    """The JSON text: `tables` (rows as in the CSV files), `methods` (how they look), `charts` by figure."""
    content = {
        "run": run.name,
        "tables": {table: _table(run, table) for table in RESULTS},
        "methods": {
            name: {"colour": look.colour, "dark": look.on_dark, "shape": outline(look.marker)}
            for name, look in styles(run.methods).items()
        },
        "charts": {name: [_chart(chart) for chart in group] for name, group in charts.items()},
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    # Nothing in it can end the element that holds it.
    return text.replace("<", "\\u003c")


def column(values: Iterable[object]) -> object:
    """A column as JSON: {"all": value}, {"of": values, "at": places in them}, or the plain list; NaN is null."""
    values = list(values)
    # Most columns repeat themselves: what is done, is done once a distinct value. True is not 1 here.
    keys = list(zip(map(type, values), values, strict=True))
    known = {key: _plain(key[1]) for key in dict.fromkeys(keys)}
    distinct: dict[tuple[type, object], int] = {}
    for value in known.values():
        distinct.setdefault((type(value), value), len(distinct))
    if len(distinct) == 1:
        return {"all": next(iter(known.values()))}
    if len(distinct) * 3 > len(values):
        return [known[key] for key in keys]
    places = {key: distinct[type(value), value] for key, value in known.items()}
    return {"of": [value for _, value in distinct], "at": [places[key] for key in keys]}


def _table(run: Run, table: str) -> dict[str, Any]:
    frame: pd.DataFrame = getattr(run, table)
    columns = {str(name): column(frame[name].tolist()) for name in frame.columns}
    return {"count": len(frame), "columns": columns | {HARDWARE: column(hardware(run, frame))}}


def _chart(chart: Chart) -> dict[str, Any]:
    marks = {name: column(map(attrgetter(name), chart.marks)) for name in (*_PLACE, *_FACTS)}
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
