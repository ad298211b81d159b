"""Lines of the output error, a panel a method: what the two error figures share."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.plots.base import legend, log_axis, number_axis, panels
from reports.text import plain

DATA_COLUMNS = ["method", "budget_name", "budget_value", "seq_len", "qk_norm", "seed", "output_error"]


def draw_lines(
    frame: pd.DataFrame,
    *,
    x: str,
    x_label: Callable[[pd.DataFrame], str],
    x_text: Callable[[float], str],
    line: str,
    line_title: str,
    line_text: Callable[[float], str],
    title: str,
) -> Figure:
    """`output_error` over `x`, a panel a method, a line for each value of `line`, a band over the seeds."""
    methods = sorted(frame["method"].unique())
    figure, axes = panels(len(methods), height=2.0, columns=4, share_y=True)
    levels = sorted(frame[line].dropna().unique())
    palette = dict(zip(levels, sns.color_palette("viridis_r", len(levels) + 1)[1:], strict=True))
    errors = frame["output_error"]
    logarithmic = float(errors.max()) > 20 * float(errors[errors > 0].min())
    for panel, method in zip(axes, methods, strict=True):
        rows = frame[frame["method"] == method]
        for level in levels:
            groups = rows[rows[line] == level].groupby(x)["output_error"]
            mean, low, high = groups.mean(), groups.min(), groups.max()
            panel.plot(mean.index, mean, color=palette[level], marker="o", markersize=3.5)
            panel.fill_between(mean.index, low, high, color=palette[level], alpha=0.2, linewidth=0)
        log_axis(panel, [value for value in rows[x] if value > 0], x_text)
        panel.set_title(plain(method))
        panel.set_xlabel(x_label(rows))
        if logarithmic:
            panel.set_yscale("log")
    if logarithmic:
        for panel in axes:
            number_axis(panel)
    else:
        axes[0].set_ylim(0, None)
    figure.supylabel(f"output error{title}", fontsize=8)
    handles = [
        Line2D([], [], color=palette[level], marker="o", markersize=3.5, label=line_text(float(level)))
        for level in levels
    ]
    legend(figure, handles, line_title)
    return figure
