"""The output error over a budget or a length, a panel a method, a line for each value of another axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from reports.charts.base import Axis, Chart, Mark, Series, Text
from reports.load import Run
from reports.points import records
from reports.style import styles
from reports.text import plural


def chart(
    run: Run,
    frame: pd.DataFrame,
    *,
    x: str,
    x_label: str,
    x_text: Text,
    line: str,
    line_text: Callable[[float], str],
) -> Chart | None:
    """Means over the seeds of `frame` with their range; None where it has no rows."""
    if frame.empty:
        return None
    book = styles(run.methods)
    series: list[Series] = []
    marks: list[Mark] = []
    for method, rows in frame.groupby("method", sort=True):
        levels = sorted(rows[line].dropna().unique())
        for place, level in enumerate(levels):
            name = f"{method} · {line_text(float(level))}"
            series.append(Series(name, str(method), book[str(method)].variant(place, len(levels))))
            for at, seeds in rows[rows[line] == level].groupby(x, sort=True):
                errors = seeds["output_error"]
                mean, low, high = float(errors.mean()), float(errors.min()), float(errors.max())
                marks.append(
                    Mark(
                        panel=str(method),
                        series=name,
                        x=float(str(at)),
                        y=mean,
                        y_low=low,
                        y_high=high,
                        rows=tuple(int(index) for index in seeds.index),
                        note=f"mean and range of {plural(len(seeds), 'seed')}",
                    )
                )
        marks += _failed(run.errors, str(method), x)
        if marks[-1].failure:
            series.append(Series(marks[-1].series, str(method), book[str(method)]))
    return Chart(
        table="errors",
        columns=("qk_norm", "output_error", "note"),
        panels=tuple(dict.fromkeys(mark.panel for mark in marks)),
        series=tuple(series),
        marks=tuple(marks),
        x=Axis(x_label, "log2", x_text),
        y=Axis("relative output error", "log"),
        ends=True,
    )


def _failed(errors: pd.DataFrame, method: str, x: str) -> list[Mark]:
    """A mark for each place where a cell of the method gave nothing."""
    rows = errors[(errors["method"] == method) & (errors["status"] != "ok") & errors[x].notna()]
    return [
        Mark(
            panel=method,
            series=f"{method} · no result",
            x=float(str(row[x])),
            y=math.nan,
            rows=(int(index),),
            failure=str(row["status"]),
            reason=str(row["reason"]),
        )
        for index, row in zip(rows.index, records(rows), strict=True)
    ]
