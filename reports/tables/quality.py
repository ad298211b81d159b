"""Tables of error, accuracy and the trade-off."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from reports.errors import at_default_norm
from reports.load import Run
from reports.points import Point, ordered_series, records, seed_points
from reports.settings import NO_TASK
from reports.tables.base import Cell, Table
from reports.tables.grid import Key, best, grid
from reports.text import DASH, interval, length, number, percent, plural, times
from reports.tradeoff import Candidate, candidates, facts, fronts

#: Marks a model whose parameters are not within 10 % of the baseline's.
OFF_BUDGET = "†"

_MEASURES = (
    ("output_error", "output"),
    ("spectral_error", "output, spectral"),
    ("attention_error", "attention"),
    ("row_tv", "row TV"),
    ("row_kl", "row KL"),
)


def error_table(run: Run, suffix: str) -> Table:
    """Every error measure by configuration, length and scale of q and k, mean and interval over seeds."""
    places = ("budget_name", "budget_value", "seq_len", "qk_norm")
    frame = run.errors
    # A failed cell has no scale; it stands beside the default one.
    frame = frame.assign(qk_norm=frame["qk_norm"].fillna(_default(frame)))
    columns = {
        column: {(p.series, *map(str, p.place)): p for p in seed_points(frame, column, places)}
        for column, _ in _MEASURES
    }
    notes = _notes(frame)
    rows, facts = [], []
    for key in columns["output_error"]:
        found = [columns[column][key] for column, _ in _MEASURES]
        budget, value, seq_len, norm = (str(part) for part in found[0].place)
        budget_text = f"{budget} {float(value):g}" if budget and value != "nan" else DASH
        shown = [_error_cell(point, notes.get(point.series, "")) for point in found]
        rows.append(
            (
                Cell(found[0].method),
                Cell(budget_text),
                Cell(length(float(seq_len))),
                Cell(number(float(norm))),
                *shown,
            )
        )
        facts.append(
            {"series": found[0].series, "method": found[0].method}
            | dict(zip(places, found[0].place, strict=True))
            | {
                f"{name}{end}": getattr(p, attribute)
                for p, (name, _) in zip(found, _MEASURES, strict=True)
                for end, attribute in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
            | {"seeds": found[0].count, "failure": found[0].failure, "reason": found[0].reason}
        )
    return Table(
        f"error{suffix}",
        "Error against exact softmax attention",
        "Relative Frobenius error of the output and of the attention matrix, total variation and KL "
        "divergence of its rows. Brackets: 95 % interval of the mean over seeds.",
        ("method", "budget", "length", "scale of q, k", *(label for _, label in _MEASURES)),
        tuple(rows),
        pd.DataFrame(facts),
    )


def _default(frame: pd.DataFrame) -> float:
    norms = at_default_norm(frame[frame["qk_norm"].notna()])["qk_norm"]
    return float(norms.iloc[0]) if len(norms) else 1.0


def _notes(frame: pd.DataFrame) -> dict[str, str]:
    """What the rows of a series note, each thing once."""
    noted = frame[frame["note"] != ""]
    return {str(name): "; ".join(map(str, notes.unique())) for name, notes in noted.groupby("series")["note"]}


def _error_cell(point: Point, note: str) -> Cell:
    if point.failure:
        return Cell(point.failure, "failure", note=point.reason)
    if not point.measured:
        return Cell(DASH, "empty", note=note or "not measured")
    return Cell(interval(point.value, point.low, point.high), "number", note=plural(point.count, "seed"))


def accuracy_table(run: Run, suffix: str) -> Table:
    """Test accuracy in percent by series and task; the mean over tasks only where every task has one."""
    frame = run.accuracy
    points = seed_points(frame, "accuracy", ("task",), top=1.0)
    tasks = sorted({str(point.place[0]) for point in points})
    table = grid(
        points,
        name=f"accuracy{suffix}",
        title="Test accuracy (%)",
        caption="Mean over seeds. Brackets: 95 % interval, Student t over seeds, never narrower than "
        "Wilson over the test targets. Bold: the best of a task, where its interval overlaps no other and all "
        "have two seeds at least. "
        "The mean is given only where every task has a value. °: this configuration equals full attention. "
        f"{OFF_BUDGET}: its model has fewer than 0.9 or more than 1.1 times the parameters of the baseline's.",
        columns=[(task,) for task in tasks],
        column_names=tasks,
        place_names=("task",),
        bold=_best_of_task(points),
        show=lambda value, low, high: f"{percent(value)} [{percent(low)}, {percent(high)}]",
    )
    table = replace(table, rows=_flagged(frame, table.rows, tasks))
    if len(tasks) < 2:
        return table
    means = [_mean_cell([p for p in points if p.series == row[0].text], len(tasks)) for row in table.rows]
    rows = tuple((*row, mean) for row, mean in zip(table.rows, means, strict=True))
    return Table(table.name, table.title, table.caption, (*table.header, "mean"), rows, table.data)


def _best_of_task(points: list[Point]) -> set[Key]:
    """The best of each task; none where one has a single seed, whose interval knows nothing of training."""
    single = {point.place for point in points if point.measured and point.count < 2}
    return best([point for point in points if point.place not in single], higher=True)


def _flagged(
    frame: pd.DataFrame, rows: tuple[tuple[Cell, ...], ...], tasks: list[str]
) -> tuple[tuple[Cell, ...], ...]:
    """The rows, with a mark at each value of a model of too few or too many parameters, and how many."""
    off = {
        (str(row["series"]), str(row["task"])): f"{row['parameters_ratio']:.2f} times the baseline's parameters"
        for row in records(frame)
        if row["parameters_flag"] is True
    }

    def mark(cell: Cell, why: str | None) -> Cell:
        if why is None or cell.look != "number":
            return cell
        return replace(cell, text=cell.text + OFF_BUDGET, note="; ".join(filter(None, (cell.note, why))))

    return tuple(
        (row[0], *(mark(cell, off.get((row[0].text, task))) for cell, task in zip(row[1:], tasks, strict=True)))
        for row in rows
    )


def _mean_cell(points: list[Point], tasks: int) -> Cell:
    measured = [point.value for point in points if point.measured]
    if len(measured) < tasks:
        return Cell(DASH, "empty", note=f"{len(measured)} of {tasks} tasks")
    return Cell(percent(sum(measured) / tasks), "number")


def tradeoff_table(run: Run, suffix: str) -> Table | None:
    """Accuracy, speed and memory of the same configuration; None where nothing joins."""
    found = candidates(run)
    if not found:
        return None
    on_front = fronts(found)
    rows = [_tradeoff_row(one, one in on_front) for one in sorted(found, key=lambda one: one.task)]
    return Table(
        f"tradeoff{suffix}",
        "Accuracy, speed and memory of the same configuration",
        "Speed is the speedup of a training step over SDPA, or the throughput seen in training where no step "
        "was timed in pairs. Front: no other method is better in both accuracy and speed.",
        ("method", "task", "accuracy (%)", "speed", "peak (MiB)", "front"),
        tuple(rows),
        facts(found),
    )


def _tradeoff_row(one: Candidate, on_front: bool) -> tuple[Cell, ...]:
    speed = times if "speedup" in one.cost_label else interval
    ends = f" [{percent(one.accuracy.low)}, {percent(one.accuracy.high)}]"
    return (
        Cell(one.series),
        Cell(one.task),
        Cell(percent(one.accuracy.value) + ends, "number", note=one.accuracy.way),
        Cell(speed(one.cost, one.cost_low, one.cost_high), "number", note=one.cost_label),
        Cell(number(one.peak_mib), "number" if math.isfinite(one.peak_mib) else "empty"),
        Cell("yes" if on_front else ""),
    )


def parameters_table(run: Run, suffix: str) -> Table | None:
    """Parameter counts side by side, where models were trained; more than 10 % off the baseline's is flagged."""
    frame = run.accuracy[run.accuracy["parameters"].notna() & ~run.accuracy["task"].isin(NO_TASK)]
    if frame.empty:
        return None
    found = {(str(row["series"]), str(row["task"])): row for row in records(frame)}
    tasks = sorted({task for _, task in found})
    rows = []
    for series, _ in ordered_series(frame):
        cells = [Cell(series)]
        for task in tasks:
            row = found.get((series, task))
            if row is None:
                cells.append(Cell(DASH, "empty"))
                continue
            count = f"{int(str(row['parameters'])):,}"
            if row["parameters_flag"] is True:
                drift = float(str(row["parameters_ratio"])) - 1
                cells.append(Cell(f"{count} ({drift:+.0%})", "failure", note="off by more than 10 %"))
            else:
                cells.append(Cell(count, "number"))
        rows.append(tuple(cells))
    data = pd.DataFrame(
        [(s, t, row["parameters"], row["parameters_ratio"]) for (s, t), row in found.items()],
        columns=["series", "task", "parameters", "parameters_ratio"],
    )
    caption = (
        "A difference of more than 10 % from the baseline in the same model is marked: such methods are not at "
        "one budget."
    )
    return Table(f"parameters{suffix}", "Parameters of the model", caption, ("method", *tasks), tuple(rows), data)
