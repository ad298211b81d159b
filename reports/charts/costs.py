"""A cost over the sequence length, a panel a mode."""

from __future__ import annotations

from collections.abc import Callable

from reports.charts.base import Axis, Chart, Reference, cost_marks, series_of
from reports.load import Run
from reports.points import Point, cost_points, modes, ordered_series


def chart(
    run: Run, column: str, label: str, line_at: float | None, notes: Callable[[list[Point]], str]
) -> Chart | None:
    """`column` of `efficiency` over the length; None where nothing of it was measured.

    `notes` says what the legend adds to a series, from its points.
    """
    points = cost_points(run.efficiency, column, ("mode", "seq_len"))
    if not any(point.measured for point in points):
        return None
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(point.series, []).append(point)
    said = {name: notes(line) for name, line in lines.items()}
    return Chart(
        table="efficiency",
        columns=(column,),
        panels=tuple(modes(run.efficiency)),
        series=series_of(run.methods, ordered_series(run.efficiency), said),
        marks=cost_marks(points),
        x=Axis("sequence length (tokens)", "log2", "length"),
        y=Axis(label, "log"),
        references=() if line_at is None else (Reference("", line_at, line_at),),
    )
