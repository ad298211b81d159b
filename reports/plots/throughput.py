"""Tokens per second over the sequence length."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.charts import Chart
from reports.load import Run
from reports.plots.base import Plot
from reports.plots.scaling import Cost, cost_chart, cost_data, draw_cost

_COST = Cost("tokens_per_s", "tokens per second", exponents=False, line_at=None)


def draw(run: Run) -> Figure | None:
    """Tokens per second over the sequence length, one panel a mode; None without a measured cell."""
    return draw_cost(run, _COST)


def data(run: Run) -> pd.DataFrame:
    """The points of the figure."""
    return cost_data(run, _COST)


def chart(run: Run) -> Chart | None:
    """Its interactive twin."""
    return cost_chart(run, _COST)


FIGURE = Plot(
    "throughput",
    "Throughput over length",
    "Higher is better; a flat line means that the cost of a token does not depend on the length.",
    draw,
    data,
    (chart,),
)
