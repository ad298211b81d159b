"""Approximation error over the sequence length."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.charts import Chart, errors
from reports.errors import at_default_norm, inexact, measured
from reports.load import Run
from reports.plots.base import Plot
from reports.plots.errors import DATA_COLUMNS, draw_lines
from reports.text import length, tick


def draw(run: Run) -> Figure | None:
    """Output error over the length, a panel a method, a line a budget; None with a single length."""
    frame = _rows(run)
    if frame["seq_len"].nunique() < 2:
        return None
    return draw_lines(
        _with_a_line(frame),
        x="seq_len",
        x_label=lambda _: "sequence length (tokens)",
        x_text=length,
        line="budget_value",
        line_title="budget",
        line_text=_budget,
        title="",
    )


def data(run: Run) -> pd.DataFrame:
    """The rows of the figure, one a seed."""
    return _rows(run)[DATA_COLUMNS]


def _rows(run: Run) -> pd.DataFrame:
    return inexact(at_default_norm(measured(run.errors)))


def _with_a_line(frame: pd.DataFrame) -> pd.DataFrame:
    """A method without a budget still has a line."""
    return frame.assign(budget_value=frame["budget_value"].fillna(0))


def _budget(value: float) -> str:
    return tick(value) if value else "none"


def chart(run: Run) -> Chart | None:
    """Its interactive twin."""
    frame = _rows(run)
    return errors.chart(
        run,
        _with_a_line(frame if frame["seq_len"].nunique() > 1 else frame.iloc[:0]),
        x="seq_len",
        x_label="sequence length (tokens)",
        x_text="length",
        line="budget_value",
        line_text=lambda value: _budget(value),
    )


FIGURE = Plot(
    "error-length",
    "Error over length",
    "How the error at the default scale of q and k grows with the length when the budget stays as it is; "
    "a band spans the seeds.",
    draw,
    data,
    (chart,),
)
