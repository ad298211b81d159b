"""Which method to use here: the fastest exact and approximate method of each mode and length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from reports.errors import EXACT, at_default_norm
from reports.fits import covers_one
from reports.load import Run
from reports.points import Point, Row, cost_points, modes, records
from reports.text import length, listing, number, times

#: An approximation with at most this output error is named beside the fastest one.
CLOSE = 0.1
#: Exact by definition, also where their error was not measured.
_EXACT_METHODS = ("full", "sdpa")


@dataclass(frozen=True)
class Contender:
    """A method at one mode and length; `low` and `high` bound `speedup`, NaN where it was not timed in pairs."""

    series: str
    method: str
    speedup: float
    low: float
    high: float
    latency_ms: float
    latency_low: float
    latency_high: float
    peak_mib: float
    error: float

    @property
    def exact(self) -> bool:
        """Whether the output equals exact softmax attention, rounding aside."""
        return self.error < EXACT or (self.method in _EXACT_METHODS and not math.isfinite(self.error))


#: (mode, length) -> who was timed there.
Places = dict[tuple[str, int], list[Contender]]


@dataclass(frozen=True)
class Choice:
    """The best contender of a group, and how far ahead of its rival it is: one it ties with, else the next."""

    best: Contender
    rival: Contender | None
    margin: float
    tie: bool


@dataclass(frozen=True)
class Answer:
    """What to use at one mode and length; a choice is None where its group has no measured method."""

    mode: str
    seq_len: int
    exact: Choice | None
    approximate: Choice | None
    close: Choice | None
    leanest: Contender | None
    contenders: tuple[Contender, ...] = ()

    @property
    def distinct(self) -> bool:
        """Whether the fastest is told from every other, and there is another."""
        fastest = self.fastest
        others = [one for one in self.contenders if one is not fastest]
        return fastest is not None and bool(others) and all(apart(fastest, one) for one in others)

    @property
    def fastest(self) -> Contender | None:
        """The fastest of all; an approximation only where it is faster than exact attention beyond doubt."""
        return ahead(self.approximate, self.exact)

    @property
    def faithful(self) -> Contender | None:
        """The fastest whose output is, within `CLOSE`, that of exact attention."""
        return ahead(self.close, self.exact)


def answers(run: Run, places: Places | None = None) -> list[Answer]:
    """An answer for each mode and length of a narrowed run, from its `contenders`, if they are known already."""
    places = contenders(run) if places is None else places
    order = {mode: rank for rank, mode in enumerate(modes(run.efficiency))}
    return [_answer(*place, places[place]) for place in sorted(places, key=lambda key: (order[key[0]], key[1]))]


def contenders(run: Run) -> Places:
    """Who was timed and does not equal full attention, in a narrowed run."""
    places = ("mode", "seq_len")
    columns = {
        column: {(p.series, p.place): p for p in cost_points(run.efficiency, column, places)}
        for column in ("speedup", "latency_ms", "peak_mib")
    }
    errors = output_errors(run)
    found: Places = {}
    for (series, (mode, seq_len)), point in columns["latency_ms"].items():
        if point.measured and not point.degenerate:
            place = (str(mode), int(str(seq_len)))
            one = _contender(point, columns, errors.get((series, place[1]), math.nan))
            found.setdefault(place, []).append(one)
    return found


def sentences(found: Sequence[Answer]) -> list[str]:
    """The answers in plain words, neighbouring lengths with the same answer in one sentence."""

    def same(answer: Answer) -> tuple[str, str, str]:
        fastest, faithful = answer.fastest, answer.faithful
        return answer.mode, fastest.series if fastest else "", faithful.series if faithful else ""

    lines = []
    for (mode, _, _), group in groupby(found, key=same):
        members = list(group)
        lengths = [length(one.seq_len) for one in members]
        span = listing(lengths) if len(lengths) < 3 else f"{lengths[0]} to {lengths[-1]}"
        lines.append(f"{mode.capitalize()}, {span} tokens: {_evidence(members[-1])}")
    return lines


def _evidence(answer: Answer) -> str:
    fastest, faithful = answer.fastest, answer.faithful
    if fastest is None:
        return "nothing was measured."
    at = f"at {length(answer.seq_len)}"
    if fastest.exact:
        return f"use {fastest.series}, which is exact{_over_baseline(fastest, at)}. {_others(answer)}"
    known = math.isfinite(fastest.error)
    error = f"a relative output error of {number(fastest.error)}" if known else "an error that was not measured"
    if fastest.error >= 1:
        error += " on random inputs, where an output of zeros has 1: only training can tell what it is good for"
    text = f"{fastest.series} is fastest: {_speed(fastest)} {at}{_memory(answer, fastest)}, with {error}."
    if answer.approximate and answer.approximate.tie and answer.approximate.rival:
        text += f" There is no difference from {answer.approximate.rival.series}."
    if faithful is None:
        return f"{text} No exact method was measured there."
    if faithful is fastest:
        return f"{text} That is close to exact attention."
    kind = "exact" if faithful.exact else f"error {number(faithful.error)}"
    return f"{text} Where the output has to be that of exact attention, use {faithful.series} ({kind})."


def _others(answer: Answer) -> str:
    """Why nothing else than the exact method: what ties with it, and what approximations there are."""
    exact, approximate = answer.exact, answer.approximate
    text = ""
    said = exact and exact.rival and exact.rival.method == "sdpa" and covers_one(exact.best.low, exact.best.high)
    if exact and exact.tie and exact.rival and not said:
        text = f"There is no difference from {exact.rival.series}, exact too. "
    if exact is None or approximate is None:
        return f"{text}No approximation was measured there."
    best = approximate.best
    if apart(exact.best, best):
        return f"{text}The fastest approximation, {best.series}, is slower ({_speed(best)})."
    return f"{text}The fastest approximation, {best.series}, makes no difference in time."


def _over_baseline(best: Contender, at: str) -> str:
    if best.method == "sdpa" or not math.isfinite(best.speedup):
        return ""
    if covers_one(best.low, best.high):
        return f", with no difference from SDPA {at} ({_speed(best)})"
    return f": {_speed(best)} {at}"


def _memory(answer: Answer, best: Contender) -> str:
    exact = answer.exact.best if answer.exact else None
    if exact is None or not math.isfinite(best.peak_mib + exact.peak_mib):
        return ""
    return f", at a peak of {number(best.peak_mib)} MiB against {number(exact.peak_mib)} of {exact.series}"


def _speed(one: Contender) -> str:
    if not math.isfinite(one.speedup):
        return f"{number(one.latency_ms)} ms a pass"
    factor, bracket, ends = times(one.speedup, one.low, one.high).partition(" [")
    return f"{factor} SDPA{bracket}{ends}"


def output_errors(run: Run) -> dict[tuple[str, int], float]:
    """(series, length) -> output error: from `errors` at the default scale, else as the cost cell saw it."""
    configuration = ("method", "budget_name", "budget_value", "method_params", "seq_len")

    def key(row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in configuration)

    measured = _mean_by(records(at_default_norm(run.errors[run.errors["status"] == "ok"])), key)
    found: dict[tuple[str, int], float] = {}
    rows = run.efficiency[["series", *configuration, "output_error"]]
    for row in records(rows if measured else rows[rows["output_error"].notna()]):
        place = (str(row["series"]), int(str(row["seq_len"])))
        seen = float(str(row["output_error"]))
        # A cost cell ran on other inputs, but on the very shape; it decides where it says "exact".
        error = seen if seen < EXACT else measured.get(key(row), seen)
        if math.isfinite(error):
            found[place] = error
    return found


def _mean_by(rows: Iterable[Row], key: Callable[[Row], tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(float(str(row["output_error"])))
    return {name: sum(values) / len(values) for name, values in groups.items()}


def _contender(
    latency: Point, columns: dict[str, dict[tuple[str, tuple[object, ...]], Point]], error: float
) -> Contender:
    speedup = columns["speedup"][latency.series, latency.place]
    return Contender(
        series=latency.series,
        method=latency.method,
        speedup=speedup.value,
        low=speedup.low,
        high=speedup.high,
        latency_ms=latency.value,
        latency_low=latency.low,
        latency_high=latency.high,
        peak_mib=columns["peak_mib"][latency.series, latency.place].value,
        error=error,
    )


def _answer(mode: str, seq_len: int, contenders: list[Contender]) -> Answer:
    contenders = alike(contenders)
    weighed = [one for one in contenders if math.isfinite(one.peak_mib)]
    return Answer(
        mode,
        seq_len,
        exact=choose([one for one in contenders if one.exact]),
        approximate=choose([one for one in contenders if not one.exact]),
        close=choose([one for one in contenders if not one.exact and one.error <= CLOSE]),
        leanest=min(weighed, key=lambda one: one.peak_mib) if weighed else None,
        contenders=tuple(contenders),
    )


def alike(contenders: list[Contender]) -> list[Contender]:
    """All by speedup, or all by time.

    Times of different cells drift apart on a busy machine; only where one has no pair do they decide.
    """
    if all(math.isfinite(one.speedup + one.low + one.high) for one in contenders):
        return contenders
    return [replace(one, speedup=math.nan, low=math.nan, high=math.nan) for one in contenders]


def choose(group: list[Contender]) -> Choice | None:
    """The fastest of a group and how it stands to the next; None of an empty one."""
    if not group:
        return None
    best, *others = sorted(group, key=lambda one: (-rate(one), one.series))
    if not others:
        return Choice(best, None, math.nan, tie=False)
    # Not only the next may overlap: one further behind does where its interval is wide.
    equal = next((one for one in others if not apart(best, one)), None)
    rival = equal or others[0]
    return Choice(best, rival, rate(best) / rate(rival), tie=equal is not None)


def rate(one: Contender) -> float:
    """What more is better of: the speedup, or passes a millisecond where there was no pair."""
    return one.speedup if math.isfinite(one.speedup) else 1 / one.latency_ms


def apart(faster: Contender, slower: Contender) -> bool:
    """Whether the intervals lie apart: those of the speedup, or of the time where there was no pair."""
    if math.isfinite(faster.speedup + slower.speedup):
        return faster.low > slower.high
    return faster.latency_high < slower.latency_low


def ahead(challenger: Choice | None, holder: Choice | None) -> Contender | None:
    """The best of both groups: the challenger's only where it is faster than the holder's beyond doubt."""
    if holder is None:
        return challenger.best if challenger else None
    return challenger.best if challenger and apart(challenger.best, holder.best) else holder.best
