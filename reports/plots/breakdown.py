"""Test accuracy by the tags of a task's examples, such as length and depth: a panel a series."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports.load import Run
from reports.plots.base import Plot, panels
from reports.points import ordered_series
from reports.text import plain, tick

_ACROSS = "length"  # the tag that goes along the x axis, if it is there
_MOST_LABELLED = 8  # columns up to which a cell has room for its number


def draw(run: Run) -> Figure | None:
    """Accuracy as a map, of one task; None without tagged examples."""
    points = data(run)
    if points.empty:
        return None
    names = _tags(points)
    across = _ACROSS if _ACROSS in names else names[-1]
    down = [name for name in names if name != across]
    columns = sorted(points[across].unique())
    rows = sorted({tuple(row) for row in points[down].itertuples(index=False)})
    series = [name for name, _ in ordered_series(points)]
    figure, axes = panels(len(series), height=0.75 + 0.14 * max(3, len(rows)))
    image = None
    for place, (panel, name) in enumerate(zip(axes, series, strict=True)):
        shown = np.full((len(rows), len(columns)), np.nan)
        for point in points[points["series"] == name].to_dict("records"):
            row = rows.index(tuple(point[tag] for tag in down))
            shown[row, columns.index(point[across])] = point["accuracy"]
        image = panel.imshow(shown, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
        _write(panel, shown)
        panel.set_title(plain(name))
        panel.set_xticks(range(len(columns)), [tick(value) for value in columns])
        panel.set_yticks(range(len(rows)), [", ".join(map(tick, row)) for row in rows] if place % 3 == 0 else [])
        panel.set_xlabel(across)
        if place % 3 == 0:
            panel.set_ylabel(", ".join(down))
        panel.grid(False)
    if image is not None:
        figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=None), label="test accuracy")
    return figure


def _write(panel: Axes, shown: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    """Each number into its cell."""
    if shown.shape[1] > _MOST_LABELLED:
        return
    for (row, column), value in np.ndenumerate(shown):
        if np.isfinite(value):
            colour = "black" if value > 0.6 else "white"
            panel.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=5.5)


def _tags(points: pd.DataFrame) -> list[str]:
    return [str(name) for name in points.columns if name not in ("series", "method", "task", "accuracy", "seeds")]


def data(run: Run) -> pd.DataFrame:
    """The cells of the figure: the mean over seeds, a column a tag."""
    frame = run.breakdown
    if frame.empty:
        return pd.DataFrame()
    tags = pd.DataFrame([json.loads(text) for text in frame["tags"]], index=frame.index)
    tags = tags.reindex(columns=sorted(tags.columns))
    keys = ["series", "method", "task", *tags.columns]
    groups = pd.concat([frame, tags], axis=1).groupby(keys, sort=True)["accuracy"]
    return groups.agg(accuracy="mean", seeds="count").reset_index()


FIGURE = Plot(
    "breakdown",
    "Accuracy by kind of example",
    "Mean over seeds of the test accuracy, in percent, on the examples of one kind; an empty cell is a kind that "
    "the task does not have. breakdown.csv has the Wilson interval of each seed.",
    draw,
    data,
)
