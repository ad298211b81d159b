"""Learning curves, a row a task."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
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
            sns.lineplot(
                rows,
                x="step",
                y=column,
                hue="series",
                palette={name: style.colour for name, style in book.items()},
                units="cell_id",
                estimator=None,
                linewidth=1.1,
                legend=False,
                ax=panel,
            )
            panel.set(xlabel="step", ylabel=label)
            panel.set_title(plain(task))
        row[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    legend(figure, [key(replace(book[name], marker=""), name) for name, _ in series])
    return figure


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
