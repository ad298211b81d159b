"""Test accuracy, a panel a task."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports.charts import accuracy
from reports.load import Run
from reports.plots.base import Plot, bars, marks, panels
from reports.points import ordered_series, seed_points, tidy
from reports.style import FAINT, INK, series_styles
from reports.text import TIMES, plain

_COLUMNS = 3


def draw(run: Run) -> Figure | None:
    """Accuracy of every series with its interval and its seeds; None without a trained cell."""
    frame = run.accuracy
    if not bool((frame["status"] == "ok").any()):
        return None
    tasks = sorted(frame["task"].unique())
    series = ordered_series(frame)
    book = series_styles(run.methods, series)
    figure, axes = panels(len(tasks), height=0.75 + 0.2 * len(series), columns=_COLUMNS)
    for place, (panel, task) in enumerate(zip(axes, tasks, strict=True)):
        rows = frame[frame["task"] == task]
        names = [name for name, _ in series]
        points = seed_points(rows, "accuracy", ("task",), top=1.0)
        known = [point for point in points if point.measured]
        places = [names.index(point.series) for point in known]
        looks = [book[point.series] for point in known]
        values = [point.value for point in known]
        bars(panel, [(point.low, point.high) for point in known], places, looks, horizontal=True, width=1.6)
        marks(panel, values, places, looks)
        for point in points:
            if point.failure:
                panel.annotate(
                    f"{TIMES} {point.failure}",
                    (0.02, names.index(point.series)),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    color=INK,
                    fontsize=7,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )
        fine = rows[rows["status"] == "ok"]
        below = [names.index(name) + 0.28 for name in fine["series"]]
        panel.scatter(fine["accuracy"], below, c=[book[name].colour for name in fine["series"]], s=3, alpha=0.7)
        _finish(panel, task, names, rows["chance"].dropna().unique(), labelled=place % _COLUMNS == 0)
    return figure


def _finish(panel: Axes, task: str, names: list[str], chances: list[float], *, labelled: bool) -> None:
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.set_yticks(range(len(names)), [plain(name) for name in names] if labelled else [""] * len(names))
    if len(chances):
        low, high = min(chances), max(chances)
        # It differs a little from seed to seed: the line is the middle, the band all of them.
        panel.axvspan(low, high, color=FAINT, alpha=0.25, linewidth=0, zorder=0.5)
        panel.axvline((low + high) / 2, color=FAINT, linestyle="--", linewidth=1, zorder=1)
        panel.annotate(
            "chance",
            (high, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -2),
            textcoords="offset points",
            va="top",
            fontsize=6.5,
            color=FAINT,
        )
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    panel.set_title(plain(task))
    panel.set_xlabel("test accuracy")


def data(run: Run) -> pd.DataFrame:
    """The points of the figure."""
    return tidy(seed_points(run.accuracy, "accuracy", ("task",), top=1.0), ("task",))


FIGURE = Plot(
    "accuracy",
    "Accuracy by task",
    "The mark is the mean over seeds (small dots in the figure), the bar its 95 % interval (Student t over seeds, "
    "never narrower than Wilson over the test targets); the dashed line is what guessing scores.",
    draw,
    data,
    (accuracy.chart,),
)
