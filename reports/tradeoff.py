"""Accuracy and cost of the same configuration, joined by its key, and the Pareto front of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from reports.fits import Estimate
from reports.load import Run
from reports.points import Point, cost_points, seed_points
from reports.settings import NO_TASK
from reports.text import TIMES

_KEY = ("config_id", "task", "env_id")


@dataclass(frozen=True)
class Candidate:
    """One configuration on one task. Cost grows with speed: more is better."""

    series: str
    task: str
    env_id: str
    accuracy: Estimate
    cost: float
    cost_low: float
    cost_high: float
    cost_label: str
    peak_mib: float
    #: Places in `accuracy`.
    rows: tuple[int, ...] = ()


def candidates(run: Run) -> list[Candidate]:
    """Every configuration whose accuracy and cost are both known, cost and accuracy from one environment.

    Cost is the speedup of a training step over SDPA; a task without any such measurement falls back to
    the throughput seen while training.
    """
    accuracies = seed_points(run.accuracy, "accuracy", _KEY, top=1.0)
    efficiency = run.efficiency
    steps = efficiency[
        (efficiency["level"] == "model") & (efficiency["mode"] == "train") & ~efficiency["task"].isin(NO_TASK)
    ].assign(series="")
    speed = {point.place: point for point in cost_points(steps, "speedup", _KEY) if point.measured}
    memory = {point.place: point for point in cost_points(steps, "peak_mib", _KEY)}
    own_speed = {point.place: point for point in cost_points(run.accuracy, "train_tokens_per_s", _KEY)}
    own_memory = {point.place: point for point in cost_points(run.accuracy, "peak_mib", _KEY)}
    paired = {place[1] for place in speed if place in {point.place for point in accuracies}}
    found = []
    for point in accuracies:
        task = point.place[1]
        costs, peaks = (speed, memory) if task in paired else (own_speed, own_memory)
        cost = costs.get(point.place)
        if not point.measured or cost is None or not cost.measured:
            continue
        label = f"speedup of a training step ({TIMES})" if task in paired else "tokens per second, training"
        found.append(_candidate(point, cost, peaks.get(point.place), label))
    return found


def front(members: list[Candidate]) -> list[Candidate]:
    """Those that no other beats in accuracy and speed at once."""
    return [one for one in members if not any(_beats(other, one) for other in members)]


def fronts(members: list[Candidate]) -> set[Candidate]:
    """The Pareto front of every task."""
    tasks = {one.task for one in members}
    return {one for task in tasks for one in front([other for other in members if other.task == task])}


def facts(members: list[Candidate]) -> pd.DataFrame:
    """One row a candidate."""
    best = fronts(members)
    return pd.DataFrame(
        [
            {
                "series": one.series,
                "task": one.task,
                "env_id": one.env_id,
                "accuracy": one.accuracy.value,
                "accuracy_low": one.accuracy.low,
                "accuracy_high": one.accuracy.high,
                "cost": one.cost,
                "cost_low": one.cost_low,
                "cost_high": one.cost_high,
                "cost_meaning": one.cost_label,
                "peak_mib": one.peak_mib,
                "front": one in best,
            }
            for one in sorted(members, key=lambda one: one.task)
        ]
    )


def _beats(other: Candidate, one: Candidate) -> bool:
    no_worse = other.cost >= one.cost and other.accuracy.value >= one.accuracy.value
    return no_worse and (other.cost > one.cost or other.accuracy.value > one.accuracy.value)


def _candidate(accuracy: Point, cost: Point, peak: Point | None, label: str) -> Candidate:
    estimate = Estimate(accuracy.value, accuracy.low, accuracy.high, accuracy.count, accuracy.way)
    return Candidate(
        series=accuracy.series,
        task=str(accuracy.place[1]),
        env_id=str(accuracy.place[2]),
        accuracy=estimate,
        cost=cost.value,
        cost_low=cost.low,
        cost_high=cost.high,
        cost_label=label,
        peak_mib=peak.value if peak else math.nan,
        rows=accuracy.rows,
    )
