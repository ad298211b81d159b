"""Learning curves, a row a task."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports.charts import curves
from reports.load import Run
from reports.plots.base import Plot, key, legend
from reports.points import ordered_series
from reports.style import WIDTH, series_styles
from reports.text import plain


def draw(run: Run) -> Figure | None:
    """Training loss and dev accuracy over the step, a line a seed; None without curves."""
    frame = run.curves.replace([np.inf, -np.inf], np.nan)
    if frame.empty:
        return None
    tasks = sorted(frame["task"].unique())
    series = ordered_series(frame)
    book = series_styles(run.methods, series)
    figure, grid = plt.subplots(
        len(tasks), 2, figsize=(WIDTH, 1.9 * len(tasks)), squeeze=False, layout="constrained"
    )
    for row, task in zip(grid, tasks, strict=True):
        for panel, column, label in zip(
            row, ("train_loss", "dev_accuracy"), ("training loss", "dev accuracy"), strict=True
        ):
            rows = frame[(frame["task"] == task) & frame[column].notna()]
            for name, lines in _lines(rows, column).items():
                panel.add_collection(LineCollection(lines, colors=book[name].colour, linewidths=1.1))
            panel.autoscale()
            panel.set(xlabel="step", ylabel=label)
            panel.set_title(plain(task))
        row[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    legend(figure, [key(replace(book[name], marker=""), name) for name, _ in series])
    return figure


def _lines(rows: pd.DataFrame, column: str) -> dict[str, list[list[tuple[float, float]]]]:
    """The curves of each series, one a cell, in the order of steps."""
    curves: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    columns = (rows[name].tolist() for name in ("series", "env_id", "cell_id", "step", column))
    for series, env, cell, step, value in zip(*columns, strict=True):
        curves.setdefault((str(series), str(env), str(cell)), []).append((float(step), float(value)))
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for (series, _, _), line in curves.items():
        found.setdefault(series, []).append(sorted(line))
    return found


def data(run: Run) -> pd.DataFrame:
    """The points of the figure."""
    return run.curves[["series", "method", "task", "seed", "step", "train_loss", "dev_accuracy"]]


FIGURE = Plot(
    "curves",
    "Learning curves",
    "One line a seed: a method still rising at the last step was stopped early, so its accuracy is a lower "
    "bound of what it can learn.",
    draw,
    data,
    tuple(partial(curves.chart, column=column) for column in curves.QUANTITIES),
)
