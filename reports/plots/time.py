"""Time of one pass over the sequence length."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.charts import Chart
from reports.load import Run
from reports.plots.base import Plot
from reports.plots.scaling import Cost, cost_chart, cost_data, draw_cost

_COST = Cost("latency_ms", "time of one pass (ms)", exponents=True, line_at=None)


def draw(run: Run) -> Figure | None:
    """Time of one pass over the sequence length, one panel a mode; None without a measured cell."""
    return draw_cost(run, _COST)


def data(run: Run) -> pd.DataFrame:
    """The points of the figure."""
    return cost_data(run, _COST)


def chart(run: Run) -> Chart | None:
    """Its interactive twin."""
    return cost_chart(run, _COST)


FIGURE = Plot(
    "time",
    "Time over length",
    "Both axes are logarithmic: a straight line is a power law, and its "
    "slope is the exponent in the legend, fitted over lengths of at least 512 tokens.",
    draw,
    data,
    (chart,),
)
