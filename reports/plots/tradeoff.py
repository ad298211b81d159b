"""Accuracy against speed, with the area of a bubble for peak memory, as Long Range Arena plots it."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reports.charts import tradeoff
from reports.load import Run
from reports.plots.base import Plot, bars, key, legend, marks, panels
from reports.points import ordered_series
from reports.style import FAINT, INK, series_styles
from reports.text import number, plain
from reports.tradeoff import Candidate, candidates, facts, front

_LARGEST = 420.0


def draw(run: Run) -> Figure | None:
    """A bubble for every configuration with accuracy and cost, a panel a task; None without one."""
    found = candidates(run)
    if not found:
        return None
    tasks = sorted({candidate.task for candidate in found})
    series = [pair for pair in ordered_series(run.accuracy) if pair[0] in {c.series for c in found}]
    book = series_styles(run.methods, series)
    largest = max((c.peak_mib for c in found if math.isfinite(c.peak_mib)), default=1.0) or 1.0
    figure, axes = panels(len(tasks), height=2.6, columns=3)
    for panel, task in zip(axes, tasks, strict=True):
        here = [candidate for candidate in found if candidate.task == task]
        best = front(here)
        _draw_front(panel, best)
        looks = [book[one.series] for one in here]
        costs, values = [one.cost for one in here], [one.accuracy.value for one in here]
        bars(panel, [(one.cost_low, one.cost_high) for one in here], values, looks, horizontal=True, width=0.9)
        bars(panel, [(one.accuracy.low, one.accuracy.high) for one in here], costs, looks, width=0.9)
        known = [math.isfinite(one.peak_mib) for one in here]
        panel.scatter(
            costs,
            values,
            s=[_LARGEST * one.peak_mib / largest if size else 20 for one, size in zip(here, known, strict=True)],
            facecolors=[look.colour if size else "none" for look, size in zip(looks, known, strict=True)],
            edgecolors=[INK if one in best else look.colour for one, look in zip(here, looks, strict=True)],
            alpha=0.55,
            linewidths=1.2,
        )
        marks(panel, costs, values, looks, size=3.5)
        panel.set_title(plain(task))
        panel.set_xlabel(here[0].cost_label)
        panel.margins(0.22)
        bottom, top = panel.get_ylim()
        panel.set_ylim(max(bottom, -0.08), min(top, 1.08))  # room for a bubble, but no shares beyond 0 and 1
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        panel.xaxis.set_major_locator(MaxNLocator(5))
    axes[0].set_ylabel("test accuracy")
    title = f"largest bubble: {number(largest)} MiB; dark rim and dashed line: Pareto front"
    legend(figure, [key(book[name], name) for name, _ in series], title)
    return figure


def _draw_front(panel: Axes, members: list[Candidate]) -> None:
    ordered = sorted(members, key=lambda one: one.cost)
    panel.plot(
        [one.cost for one in ordered],
        [one.accuracy.value for one in ordered],
        color=FAINT,
        linestyle="--",
        linewidth=1.0,
        zorder=1,
    )


def data(run: Run) -> pd.DataFrame:
    """The points of the figure."""
    return facts(candidates(run))


FIGURE = Plot(
    "tradeoff",
    "Accuracy against speed",
    "Up is more accurate, right is faster, a smaller bubble needs less memory; what has no dark rim "
    "is matched or beaten in both accuracy and speed by another method.",
    draw,
    data,
    (tradeoff.chart,),
)
