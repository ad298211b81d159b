"""Approximation error over the budget of a method."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.charts import Chart, errors
from reports.errors import at_one_length, inexact, measured
from reports.load import Run
from reports.plots.base import Plot
from reports.plots.errors import DATA_COLUMNS, draw_lines
from reports.text import TIMES, length, tick


def draw(run: Run) -> Figure | None:
    """Output error over the budget, a panel a method, a line a scale of q and k; None without several budgets."""
    frame = _rows(run)
    if frame.empty:
        return None
    return draw_lines(
        frame,
        x="budget_value",
        x_label=lambda rows: str(rows["budget_name"].iloc[0]),
        x_text=tick,
        line="qk_norm",
        line_title="scale of q and k",
        line_text=tick,
        title=f" at {length(float(frame['seq_len'].iloc[0]))} tokens",
    )


def data(run: Run) -> pd.DataFrame:
    """The rows of the figure, one a seed."""
    return _rows(run)[DATA_COLUMNS]


def _rows(run: Run) -> pd.DataFrame:
    rows = inexact(at_one_length(measured(run.errors[run.errors["budget_value"].notna()])))
    budgets = rows.groupby("method")["budget_value"].transform("nunique")
    return rows[budgets > 1]


def chart(run: Run) -> Chart | None:
    """Its interactive twin."""
    return errors.chart(
        run,
        _rows(run),
        x="budget_value",
        x_label="budget",
        x_text="exact",
        line="qk_norm",
        line_text=lambda norm: f"q, k {TIMES} {tick(norm)}",
    )


FIGURE = Plot(
    "error-budget",
    "Error over budget",
    "Relative error of the output against exact softmax attention: 0 is exact, 1 as far off as an output "
    "of zeros; a band spans the seeds, and a line that does not fall says that a larger budget does not help.",
    draw,
    data,
    (chart,),
)
