"""Speedup over the sequence length."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.charts import Chart
from reports.load import Run
from reports.plots.base import Plot
from reports.plots.scaling import Cost, cost_chart, cost_data, draw_cost
from reports.text import TIMES

_COST = Cost("speedup", f"speedup over SDPA ({TIMES})", exponents=False, line_at=1.0)


def draw(run: Run) -> Figure | None:
    """Speedup over the sequence length, one panel a mode; None without a measured cell."""
    return draw_cost(run, _COST)


def data(run: Run) -> pd.DataFrame:
    """The points of the figure."""
    return cost_data(run, _COST)


def chart(run: Run) -> Chart | None:
    """Its interactive twin."""
    return cost_chart(run, _COST)


FIGURE = Plot(
    "speedup",
    "Speedup over SDPA",
    "Above the line at 1 a method is faster than SDPA, timed in alternation with it in the same "
    "process; where a bar touches the line there is no difference to report.",
    draw,
    data,
    (chart,),
)
