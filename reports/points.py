"""Rows to points: one point for each series and place, a failure staying a failure."""

from __future__ import annotations

import math
import weakref
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median
from typing import Any, TypeVar

import pandas as pd

from reports.fits import over_seeds

MODES = ("forward", "train", "decode")
#: Exact attention comes first in every legend and table.
_FIRST = ("full", "sdpa")

#: What every point is made of, beside its series, its place and its value.
_READ = ("method", "status", "reason", "degenerate")

Row = dict[str, object]


@dataclass(frozen=True)
class Point:
    """What one configuration does at one place; `value` is NaN where it failed or was not measured."""

    series: str
    method: str
    place: tuple[object, ...]
    value: float
    low: float
    high: float
    count: int
    failure: str
    reason: str
    degenerate: bool
    way: str = ""
    #: Places in the table of the run.
    rows: tuple[int, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)


def cost_points(frame: pd.DataFrame, column: str, places: Sequence[str]) -> list[Point]:
    """Points of a cost; repeats give the median of their values and the envelope of their intervals."""

    def combine(values: list[float], lows: list[float], highs: list[float]) -> tuple[float, float, float, str]:
        return median(values), min(lows), max(highs), ""

    return once(frame, "cost", column, *places, make=lambda: _points(frame, column, places, combine))


def seed_points(frame: pd.DataFrame, column: str, places: Sequence[str], *, top: float = math.inf) -> list[Point]:
    """Points of a quality: mean over seeds with a t-interval, or the interval of a single seed."""

    def combine(values: list[float], lows: list[float], highs: list[float]) -> tuple[float, float, float, str]:
        estimate = over_seeds(values, fmean(lows), fmean(highs))
        return estimate.value, max(0.0, estimate.low), min(top, estimate.high), estimate.way

    return once(frame, "seeds", column, *places, top, make=lambda: _points(frame, column, places, combine))


def by_line(points: Iterable[Point]) -> dict[tuple[str, object], list[Point]]:
    """Points at (place, ...) by series and that place, such as the mode; in their order."""
    lines: dict[tuple[str, object], list[Point]] = defaultdict(list)
    for point in points:
        lines[point.series, point.place[0]].append(point)
    return lines


#: (frame, kind, column, ...) -> what was made. Tables, figures and charts ask for the same again and again.
_made: OrderedDict[tuple[object, ...], tuple[weakref.ref[pd.DataFrame], Any]] = OrderedDict()
_KEPT = 64
_T = TypeVar("_T")


def once(frame: pd.DataFrame, *key: object, make: Callable[[], _T]) -> _T:
    """What `make` gives for a frame, made once; an id may come again, so the frame must be the very one."""
    place = (id(frame), *key)
    known = _made.get(place)
    if known is None or known[0]() is not frame:
        _made[place] = known = (weakref.ref(frame), make())
        if len(_made) > _KEPT:
            _made.popitem(last=False)
    made: _T = known[1]
    return made


@dataclass(frozen=True)
class _Group:
    """The rows of a series at a place: where they stand, those that ended well, and what they share."""

    key: tuple[object, ...]
    method: str
    rows: tuple[int, ...]
    ok: tuple[int, ...]
    failure: str
    reason: str
    degenerate: bool


def _groups(frame: pd.DataFrame, places: Sequence[str]) -> list[_Group]:
    """The groups of a table, in the order of legends and tables."""
    # Lists by column, not a dictionary a row: a table has dozens of columns, and a run a hundred thousand rows.
    method, status, reason, flags = (_list(frame[name]) for name in _READ)
    degenerate = [flag is True for flag in flags]
    ok = [word == "ok" for word in status]
    found: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(*(_list(frame[name]) for name in ("series", *places)), strict=True)):
        found[key].append(row)
    groups = []
    for key, rows in found.items():
        good = [row for row in rows if ok[row]]
        failure = why = ""
        if len(good) < len(rows):
            failure, why = failures({"status": status[row], "reason": reason[row]} for row in rows)
        equal = any(degenerate[row] for row in rows)
        groups.append(_Group(key, str(method[rows[0]]), tuple(rows), tuple(good), failure, why, equal))
    return sorted(groups, key=lambda group: (series_order(str(group.key[0]), group.method), group.key[1:]))


def _points(
    frame: pd.DataFrame,
    column: str,
    places: Sequence[str],
    combine: Callable[[list[float], list[float], list[float]], tuple[float, float, float, str]],
) -> list[Point]:
    values, lows, highs = (_floats(frame, name) for name in (column, f"{column}_low", f"{column}_high"))
    index = frame.index.tolist()
    points = []
    for group in once(frame, "groups", *places, make=lambda: _groups(frame, places)):
        measured = [row for row in group.ok if math.isfinite(values[row])]
        value = low = high = math.nan
        way = ""
        # A mean over the seeds that survived would hide the one that did not.
        if measured and not group.failure:
            parts = ([numbers[row] for row in measured] for numbers in (values, lows, highs))
            value, low, high, way = combine(*parts)
        points.append(
            Point(
                series=str(group.key[0]),
                method=group.method,
                place=group.key[1:],
                value=value,
                low=low,
                high=high,
                count=len(measured),
                failure=group.failure,
                reason=group.reason,
                degenerate=group.degenerate,
                way=way,
                rows=tuple([int(index[row]) for row in group.rows]),
            )
        )
    return points


def tidy(points: Sequence[Point], place_names: Sequence[str]) -> pd.DataFrame:
    """The points as one observation a row."""
    names = ["series", "method", *place_names, "value", "low", "high", "count", "failure", "reason", "degenerate"]
    return pd.DataFrame(
        [
            (p.series, p.method, *p.place, p.value, p.low, p.high, p.count, p.failure, p.reason, p.degenerate)
            for p in points
        ],
        columns=names,
    )


def failures(rows: Iterable[Row]) -> tuple[str, str]:
    """The statuses other than ok, counted where not all rows share one, and their reasons."""
    rows = list(rows)
    failed = [row for row in rows if row["status"] != "ok"]
    counts = Counter(str(row["status"]) for row in failed)
    words = [name if count == len(rows) else f"{name} {count} of {len(rows)}" for name, count in counts.items()]
    reasons = dict.fromkeys(str(row["reason"]) for row in failed if row["reason"])
    return ", ".join(words), "; ".join(reasons)


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows as dictionaries of plain Python values; what is missing from a nullable column is None."""
    names = [str(name) for name in frame.columns]
    columns = [_list(frame.iloc[:, place]) for place in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] if names else []


@lru_cache(maxsize=4096)
def series_order(series: str, method: str) -> tuple[int, str, list[tuple[float, str]]]:
    """Exact methods first, then by name, budgets by size."""
    first = _FIRST.index(method) if method in _FIRST else len(_FIRST)
    words = series[len(method) :].split()
    return first, method, [(float(w), "") if _is_number(w) else (-math.inf, w) for w in words]


def ordered_series(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Each (series, method) of `frame`, in the order of legends and tables."""
    pairs = set(zip(frame["series"].tolist(), frame["method"].tolist(), strict=True))
    return sorted(pairs, key=lambda pair: series_order(*pair))


def modes(frame: pd.DataFrame) -> list[str]:
    """The modes of `frame`, the known ones in their usual order."""
    found = frame["mode"].unique()
    return sorted(found, key=lambda mode: (MODES.index(mode) if mode in MODES else len(MODES), mode))


def _list(column: pd.Series) -> list[object]:
    """The values as plain Python; what is missing from a nullable column is None."""
    values: list[object] = column.tolist()
    nullable = str(column.dtype) in ("Int64", "boolean")
    return [None if value is pd.NA else value for value in values] if nullable else values


def _floats(frame: pd.DataFrame, name: str) -> list[float]:
    """A column as numbers; NaN where it, or a value of it, is missing."""
    if name not in frame:
        return [math.nan] * len(frame)
    if frame[name].dtype == float:
        return list(frame[name].tolist())
    return [float(value) if isinstance(value, (int, float)) else math.nan for value in _list(frame[name])]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
