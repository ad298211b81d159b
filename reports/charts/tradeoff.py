"""Accuracy against speed, the area of a mark for its peak memory, a panel a task."""

from __future__ import annotations

from reports.charts.base import Axis, Chart, Mark, series_of
from reports.load import Run
from reports.points import ordered_series
from reports.text import number
from reports.tradeoff import candidates, fronts


def chart(run: Run) -> Chart | None:
    """Every configuration with accuracy and cost; None without one."""
    found = candidates(run)
    if not found:
        return None
    best = fronts(found)
    names = {one.series for one in found}
    # A task without paired costs has throughput in their place; its panel says so.
    labels = {one.task: one.cost_label for one in found}
    shared = len(set(labels.values())) == 1
    panel = {task: task if shared else f"{task} ({_unit(label)})" for task, label in labels.items()}
    marks = tuple(
        Mark(
            panel=panel[one.task],
            series=one.series,
            x=one.cost,
            x_low=one.cost_low,
            x_high=one.cost_high,
            y=one.accuracy.value,
            y_low=one.accuracy.low,
            y_high=one.accuracy.high,
            size=one.peak_mib,
            rows=one.rows,
            note=f"peak {number(one.peak_mib)} MiB" + (", on the Pareto front" if one in best else ""),
            front=one in best,
        )
        for one in found
    )
    return Chart(
        table="accuracy",
        columns=("accuracy", "train_tokens_per_s", "peak_mib"),
        panels=tuple(panel[task] for task in sorted(panel)),
        series=series_of(run.methods, [pair for pair in ordered_series(run.accuracy) if pair[0] in names]),
        marks=marks,
        x=Axis(next(iter(labels.values())) if shared else "speed in training", "linear"),
        y=Axis("test accuracy", "linear", "percent"),
        joined=False,
        size="peak memory (MiB)",
    )


def _unit(label: str) -> str:
    """The cost in a word, for the title of a narrow panel."""
    return "speedup" if label.startswith("speedup") else "tokens/s"
