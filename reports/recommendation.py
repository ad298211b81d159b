"""Which method a run recommends for a question: one answer for each of its settings, and what it leaves open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from reports.answer import Contender, ahead, alike, apart, choose, contenders, output_errors, rate
from reports.feasibility import MIB_A_GIB, with_footprint
from reports.fits import predict
from reports.load import ReportError, Run
from reports.points import Point, Row, cost_points, records, seed_points
from reports.question import Question, asked
from reports.settings import Setting, cost_settings, task_settings
from reports.text import length, number, percent, plural

_PLACES = ("mode", "seq_len")
#: With fewer seeds an interval over them says next to nothing.
FEWEST_SEEDS = 3

Why = Literal["failed", "degenerate", "memory", "error", "accuracy", "unknown"]
Gap = Literal["memory", "error", "accuracy", "seeds", "length", "rounds", "latency"]


@dataclass(frozen=True)
class Option:
    """A method that could be used, with what speaks for it; `footprint_mib`: peak, inputs and parameters."""

    contender: Contender
    footprint_mib: float
    accuracy: Point | None = None


@dataclass(frozen=True)
class Excluded:
    """A method that is not recommended, why, and what is not known of it where that is the reason."""

    series: str
    kind: Why
    reason: str
    gap: Gap | None = None


@dataclass(frozen=True)
class Recommendation:
    """The answer of one setting. `around`: the measured lengths below and above, where the one asked for is none.

    best: None where no method is left. runner_up: one that best cannot be told from, else the next; margin: how
    many times as fast best is. exact: the fastest method left whose output is that of exact attention.
    """

    setting: Setting
    question: Question
    measured: bool
    around: tuple[int | None, int | None]
    options: tuple[Option, ...]
    best: Option | None
    runner_up: Option | None
    margin: float
    tie: bool
    exact: Option | None
    excluded: tuple[Excluded, ...]

    @property
    def gaps(self) -> list[tuple[str, Gap]]:
        """(series, what is not known of it): what a measurement would settle, the most telling first."""
        leaders = [one.contender.series for one in (self.best, self.runner_up) if one]
        found: list[tuple[str, Gap]] = []
        if not self.measured:
            found += [(series, "length") for series in leaders]
        elif self.tie:
            found += [(series, "rounds") for series in leaders]
        for one in (self.best, self.runner_up):
            if one and one.accuracy and one.accuracy.count < FEWEST_SEEDS:
                found.append((one.contender.series, "seeds"))
        return found + [(one.series, one.gap) for one in self.excluded if one.gap]

    def row(self, series: str) -> Row:
        """A row of the configuration `series`, in the mode asked for, at the length nearest to it."""
        frame = self.setting.run.efficiency
        rows = records(frame[(frame["series"] == series) & (frame["mode"] == self.question.mode)])
        return min(rows, key=lambda row: abs(int(str(row["seq_len"])) - self.question.seq_len))


def recommend(run: Run, question: Question) -> list[Recommendation]:
    """An answer for each setting of the run that measured the mode; ReportError where none did."""
    found = [
        _recommendation(setting, question)
        for setting in cost_settings(asked(run, question))
        if question.mode in set(setting.run.efficiency["mode"])
    ]
    if not found:
        # Training cells of a task at its one length are no answer about lengths.
        raise ReportError(f"{run.name}: measured {question.mode} at the length of a task only")
    return found


def _recommendation(setting: Setting, question: Question) -> Recommendation:
    run = setting.run
    frame = with_footprint(run.efficiency[run.efficiency["mode"] == question.mode])
    env = frame["env_id"].iloc[0]
    run = run.narrow("efficiency", frame).narrow("accuracy", run.accuracy[run.accuracy["env_id"] == env])
    run = run.narrow("errors", run.errors[run.errors["env_id"] == env])
    lengths = sorted({int(n) for n in frame["seq_len"]})
    measured = question.seq_len in lengths
    options, excluded = (_measured if measured else _estimated)(run, question)
    kept = []
    for option in _with_accuracy(options, run, question):
        reason = _unfit(option, question, run)
        excluded += [reason] if reason else []
        kept += [] if reason else [option]
    below = [n for n in lengths if n < question.seq_len]
    above = [n for n in lengths if n > question.seq_len]
    best, runner_up, exact = _ranked(kept)
    return Recommendation(
        setting,
        question,
        measured,
        (None, None) if measured else (below[-1] if below else None, above[0] if above else None),
        tuple(kept),
        best,
        runner_up,
        rate(best.contender) / rate(runner_up.contender) if best and runner_up else math.nan,
        bool(best and runner_up and not apart(best.contender, runner_up.contender)),
        exact,
        tuple(sorted(excluded, key=lambda one: (one.kind, one.series))),
    )


def _measured(run: Run, question: Question) -> tuple[list[Option], list[Excluded]]:
    """What was measured at the length, and what was tried there in vain."""
    place = (question.mode, question.seq_len)
    points = {p.series: p for p in cost_points(run.efficiency, "latency_ms", _PLACES) if p.place == place}
    footprints = {p.series: p for p in cost_points(run.efficiency, "footprint_mib", _PLACES) if p.place == place}
    excluded = []
    for series, point in points.items():
        if point.failure:
            excluded.append(Excluded(series, "failed", f"{point.failure}: {point.reason or 'no reason recorded'}"))
        elif point.degenerate:
            excluded.append(Excluded(series, "degenerate", "equals full attention at this length"))
        elif not point.measured:
            excluded.append(Excluded(series, "unknown", "its time was not measured", "latency"))
    found = contenders(run).get(place, [])
    return [Option(one, footprints[one.series].value) for one in found], excluded


def _estimated(run: Run, question: Question) -> tuple[list[Option], list[Excluded]]:
    """What the fitted laws say of a length that was not measured."""
    lines: dict[str, dict[str, list[Point]]] = {}
    columns = ("latency_ms", "speedup", "peak_mib", "footprint_mib")
    for column in columns:
        for point in cost_points(run.efficiency, column, _PLACES):
            lines.setdefault(point.series, {name: [] for name in columns})[column].append(point)
    errors = output_errors(run)
    options, excluded = [], []
    for series, line in lines.items():
        lost = _lost(line["latency_ms"], question.seq_len)
        if lost:
            where = f"{lost.failure} at {length(_length(lost))} already"
            excluded.append(Excluded(series, "failed", f"{where}: {lost.reason or 'no reason recorded'}"))
            continue
        time, speed, peak, footprint = (_predicted(line[name], question.seq_len) for name in columns)
        if math.isnan(time[0]):
            reason = "too few measured lengths for an estimate (three are needed)"
            excluded.append(Excluded(series, "unknown", reason, "length"))
            continue
        known = {n: error for (name, n), error in errors.items() if name == series}
        nearest = min(known, key=lambda n: abs(math.log(n / question.seq_len)), default=None)
        one = Contender(
            series,
            line["latency_ms"][0].method,
            *speed,
            *time,
            peak_mib=peak[0],
            error=math.nan if nearest is None else known[nearest],
        )
        options.append(Option(one, footprint[0]))
    return options, excluded


def _lost(line: Sequence[Point], at: int) -> Point | None:
    """The shortest failure up to a length, behind which nothing succeeded; None without one."""
    longest = max((_length(point) for point in line if point.measured), default=0)
    failed = [point for point in line if point.failure and longest < _length(point) <= at]
    return min(failed, key=_length, default=None)


def _predicted(line: Sequence[Point], at: int) -> tuple[float, float, float]:
    points = [point for point in line if point.measured and not point.degenerate]
    found = predict([_length(point) for point in points], [point.value for point in points], at)
    return (found.value, found.low, found.high) if found else (math.nan, math.nan, math.nan)


def _length(point: Point) -> int:
    return int(str(point.place[1]))


def _with_accuracy(options: Sequence[Option], run: Run, question: Question) -> list[Option]:
    """The options with their accuracy on the task, where the very same configuration was trained."""
    if not question.task:
        return list(options)
    settings = task_settings(run, "accuracy")
    if len(settings) > 1:
        labels = "; ".join(setting.label for setting in settings)
        raise ReportError(f"task={question.task}: trained in settings that do not compare ({labels})")
    trained = run.accuracy.assign(series=[_configuration(row) for row in records(run.accuracy)])
    points = {point.series: point for point in seed_points(trained, "accuracy", ("task",), top=1.0)}
    keys = {str(row["series"]): _configuration(row) for row in records(run.efficiency)}
    return [replace(one, accuracy=points.get(keys[one.contender.series])) for one in options]


def _configuration(row: Row) -> str:
    return " ".join(str(row[name]) for name in ("method", "budget_name", "budget_value", "method_params"))


def _unfit(option: Option, question: Question, run: Run) -> Excluded | None:
    """Why an option does not answer the question; None where it does."""
    one = option.contender
    if question.memory_gib is not None:
        needed = option.footprint_mib / MIB_A_GIB
        if math.isnan(needed):
            return Excluded(one.series, "unknown", "its memory was not measured", "memory")
        if needed > question.memory_gib:
            reason = f"needs {number(needed)} GiB, more than {question.memory_gib:g}"
            return Excluded(one.series, "memory", reason)
    if question.error is not None and not one.exact:
        if math.isnan(one.error):
            return _without_error(one, run)
        if one.error > question.error:
            reason = f"an output error of {number(one.error)}, more than {question.error:g}"
            return Excluded(one.series, "error", reason)
    if question.accuracy is not None:
        return _inaccurate(option, question, run)
    return None


def _without_error(one: Contender, run: Run) -> Excluded:
    rows = run.errors[(run.errors["method"] == one.method) & (run.errors["status"] == "ok")]
    notes = list(dict.fromkeys(str(note) for note in rows["note"] if note and not pd.isna(note)))
    if notes and bool(rows["output_error"].isna().all()):
        return Excluded(one.series, "unknown", f"it has no output error: {'; '.join(notes)}")
    return Excluded(one.series, "unknown", "its output error was not measured", "error")


def _inaccurate(option: Option, question: Question, run: Run) -> Excluded | None:
    series, point = option.contender.series, option.accuracy
    least = question.accuracy or 0.0
    if point is None:
        rows = run.accuracy[run.accuracy["method"] == option.contender.method]
        others = sorted({_budget(row) for row in records(rows)} - {""})
        only = f", only with {' and '.join(others)}" if others else ""
        return Excluded(series, "unknown", f"was not trained on {question.task} like this{only}", "accuracy")
    if point.failure:
        return Excluded(series, "failed", f"{point.failure} on {question.task}: {point.reason}")
    if not point.measured:
        return Excluded(series, "unknown", f"has no accuracy on {question.task}", "accuracy")
    if point.value < least:
        shown = f"{percent(point.value)} % [{percent(point.low)}, {percent(point.high)}]"
        reason = f"{shown} on {question.task}, less than {percent(least)} %, by {plural(point.count, 'seed')}"
        return Excluded(series, "accuracy", reason, "seeds" if point.high >= least else None)
    return None


def _budget(row: Row) -> str:
    name, value = str(row["budget_name"] or ""), row["budget_value"]
    return (
        f"{name} {float(str(value)):g}" if name and value is not None and not math.isnan(float(str(value))) else ""
    )


def _ranked(kept: Sequence[Option]) -> tuple[Option | None, Option | None, Option | None]:
    """The best, its rival and the best exact one: an approximation only where it is faster beyond doubt."""
    fair = alike([option.contender for option in kept])
    options = {one.series: replace(option, contender=one) for option, one in zip(kept, fair, strict=True)}
    exact = choose([one for one in fair if one.exact])
    best = ahead(choose([one for one in fair if not one.exact]), exact)
    if best is None:
        return None, None, None
    others = sorted((one for one in fair if one is not best), key=lambda one: (-rate(one), one.series))
    equal = [one for one in others if not apart(best, one)]
    rival = next(iter(equal or others), None)
    return (
        options[best.series],
        options[rival.series] if rival else None,
        options[exact.best.series] if exact else None,
    )
