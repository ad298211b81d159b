"""Which method is the most accurate on each task, in plain words."""

from __future__ import annotations

from reports.load import Run
from reports.points import Point, seed_points
from reports.text import percent


def accuracy_sentences(run: Run) -> list[str]:
    """A sentence a task: the best method, and whether it is distinguishable from the next."""
    points = seed_points(run.accuracy, "accuracy", ("task",), top=1.0)
    chances = run.accuracy.groupby("task")["chance"].max()
    lines = []
    for task in sorted({str(point.place[0]) for point in points}):
        here = [point for point in points if point.place[0] == task and point.measured]
        if not here:
            lines.append(f"On {task} no method ended with an accuracy.")
            continue
        best, *others = sorted(here, key=lambda point: -point.value)
        line = f"On {task} {best.series} scores highest: {_shown(best)}"
        rival = next((other for other in others if not other.high < best.low), None)
        if not others:
            line += ", as the only one."
        elif rival:
            line += f"; there is no difference from {rival.series} ({_shown(rival)})."
        else:
            line += f"; the next is {others[0].series} ({_shown(others[0])})."
        if best.low <= float(chances[task]):
            line += " That is not distinguishable from guessing."
        lines.append(line)
    return lines


def _shown(point: Point) -> str:
    return f"{percent(point.value)} %, interval {percent(point.low)} to {percent(point.high)}"
