"""Accuracy with its interval, a panel a task, a line a series."""

from __future__ import annotations

from reports.charts.base import Axis, Chart, Mark, Reference, series_of
from reports.load import Run
from reports.points import ordered_series, seed_points
from reports.text import plural


def chart(run: Run) -> Chart | None:
    """The accuracies of every series; None without a trained cell."""
    frame = run.accuracy
    if not bool((frame["status"] == "ok").any()):
        return None
    pairs = ordered_series(frame)
    places = {name: place for place, (name, _) in enumerate(pairs)}
    marks = tuple(
        Mark(
            panel=str(point.place[0]),
            series=point.series,
            x=point.value,
            x_low=point.low,
            x_high=point.high,
            y=float(places[point.series]),
            rows=point.rows,
            failure=point.failure,
            reason=point.reason,
            note=plural(point.count, "seed"),
        )
        for point in seed_points(frame, "accuracy", ("task",), top=1.0)
        if point.measured or point.failure
    )
    # What guessing scores follows from the targets that a seed drew: a thin band over several seeds.
    chances = frame.dropna(subset=["chance"]).groupby("task", sort=True)["chance"].agg(["min", "max"])
    return Chart(
        table="accuracy",
        columns=("accuracy", "test_targets"),
        panels=tuple(sorted(str(task) for task in frame["task"].unique())),
        series=series_of(run.methods, pairs),
        marks=marks,
        x=Axis("test accuracy", "linear", "percent"),
        y=Axis("", "series"),
        value="x",
        joined=False,
        references=tuple(
            Reference(str(task), float(low), float(high), "chance") for task, low, high in chances.itertuples()
        ),
    )
