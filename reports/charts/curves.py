"""Learning curves, a panel a task and quantity, a line a seed."""

from __future__ import annotations

from reports.charts.base import Axis, Chart, Mark, series_of
from reports.load import Run
from reports.points import Row, ordered_series, records

#: column -> what a panel calls it
QUANTITIES = {"dev_accuracy": "dev accuracy", "train_loss": "training loss"}


def chart(run: Run, column: str) -> Chart | None:
    """`column` over the step; None without curves."""
    frame = run.curves
    if not bool(frame[column].notna().any()):
        return None
    # Rows of accuracy.csv: what the filters go by, and where a curve ends.
    rows = {
        (str(row["env_id"]), str(row["cell_id"])): int(index)
        for index, row in zip(run.accuracy.index, records(run.accuracy[["env_id", "cell_id"]]), strict=True)
    }
    marks = tuple(
        _mark(row, column, rows) for row in records(frame.sort_values(["cell_id", "step"], kind="stable"))
    )
    return Chart(
        table="accuracy",
        columns=("accuracy", "steps", "train_loss"),
        panels=tuple(sorted(str(task) for task in frame["task"].unique())),
        series=series_of(run.methods, ordered_series(frame)),
        marks=marks,
        x=Axis("step", "linear"),
        y=Axis(QUANTITIES[column], "linear", "percent" if column == "dev_accuracy" else "number"),
        bare=True,
    )


def _mark(row: Row, column: str, rows: dict[tuple[str, str], int]) -> Mark:
    place = rows.get((str(row["env_id"]), str(row["cell_id"])))
    return Mark(
        panel=str(row["task"]),
        series=str(row["series"]),
        x=float(str(row["step"])),
        y=float(str(row[column])),
        rows=() if place is None else (place,),
        note=f"seed {row['seed']}",
        line=str(row["cell_id"]),
    )
