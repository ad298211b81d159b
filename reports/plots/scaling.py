"""A cost over the sequence length, one panel a mode: what time, memory, throughput and speedup share."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.charts import Chart, costs
from reports.fits import exponent
from reports.load import Run
from reports.plots.base import bars, failure_key, key, legend, length_axis, number_axis, panels
from reports.points import Point, by_line, cost_points, modes, ordered_series, tidy
from reports.style import Style, series_styles, styles
from reports.text import DASH

_STACK = 0.035
#: More series than these are drawn as bands, one a method: nobody tells hundreds of lines apart.
_MOST_LINES = 72


@dataclass(frozen=True)
class Cost:
    """One column of `efficiency` and its axis."""

    column: str
    label: str
    exponents: bool = False
    line_at: float | None = None


def draw_cost(run: Run, cost: Cost) -> Figure | None:
    """`cost` over the length for every series; failed cells are gaps with a cross at the top."""
    frame = run.efficiency
    points = cost_points(frame, cost.column, ("mode", "seq_len"))
    if not any(point.measured for point in points):
        return None
    series = ordered_series(frame)
    book = series_styles(run.methods, series)
    names = modes(frame)
    figure, axes = panels(len(names), height=3.1, columns=2, share_y=True)
    slopes: dict[str, list[str]] = {name: [] for name, _ in series}
    lines = by_line(points)
    crowded = len(series) > _MOST_LINES
    if crowded:
        book = {name: styles(run.methods)[method] for name, method in series}
    for panel, mode in zip(axes, names, strict=True):
        here = [point for point in points if point.place[0] == mode]
        if crowded:
            _draw_bands(panel, here, book)
            _mark_failures(panel, _one_a_method(here), book)
        else:
            for name, _ in series:
                line = lines.get((name, mode), [])
                _draw_line(panel, line, book[name])
                if cost.exponents:
                    slopes[name].append(_slope(line))
            bars(
                panel,
                [(point.low, point.high) for point in here],
                [_length(point) for point in here],
                [book[point.series] for point in here],
            )
            _mark_failures(panel, here, book)
        panel.set_title(mode)
        length_axis(panel, [_length(point) for point in points])
        if cost.line_at is not None:
            panel.axhline(cost.line_at, color="#2b2f36", linewidth=0.9, zorder=1)
    for panel in axes:
        panel.set_yscale("log")
        panel.set_ylim(*_limits(_one_a_method(points) if crowded else points))
        number_axis(panel)
    axes[0].set_ylabel(cost.label)
    if crowded:
        handles = [key(book[name], method) for method, name in {method: name for name, method in series}.items()]
    else:
        labels = {name: _label(name, slopes[name]) if cost.exponents else name for name, _ in series}
        handles = [key(book[name], labels[name]) for name, _ in series]
    handles += [failure_key()] if any(point.failure for point in points) else []
    legend(figure, handles, _legend_title(cost, names, len(series)))
    return figure


def _legend_title(cost: Cost, names: list[str], count: int) -> str:
    if count > _MOST_LINES:
        return f"methods; a band spans the lowest to the highest of a method's configurations, {count} in all"
    return f"series: exponent of length, {' / '.join(names)}" if cost.exponents else ""


def cost_data(run: Run, cost: Cost) -> pd.DataFrame:
    """The points of `draw_cost`."""
    places = ("mode", "seq_len")
    return tidy(cost_points(run.efficiency, cost.column, places), places)


def cost_chart(run: Run, cost: Cost) -> Chart | None:
    """The interactive twin of `draw_cost`."""
    names = modes(run.efficiency)

    def slopes(line: list[Point]) -> str:
        by_mode = [_slope([point for point in line if point.place[0] == mode]) for mode in names]
        return f"exponent {' / '.join(by_mode)}" if cost.exponents and set(by_mode) != {DASH} else ""

    return costs.chart(run, cost.column, cost.label, cost.line_at, slopes)


def _draw_line(panel: Axes, line: list[Point], style: Style) -> None:
    line = sorted(line, key=_length)
    # A failed length stays in the line as NaN, so that no stroke bridges it.
    lengths, values = [_length(point) for point in line], [point.value for point in line]
    look: dict[str, Any] = {"color": style.colour, "linestyle": style.line, "marker": style.marker, "zorder": 3}
    full = [place for place, point in enumerate(line) if not point.degenerate]
    panel.plot(lengths, values, markevery=full, markeredgecolor="white", markeredgewidth=0.4, **look)
    hollow = [point for point in line if point.degenerate]
    if hollow:
        look |= {"linestyle": "none", "markerfacecolor": "white"}
        panel.plot([_length(point) for point in hollow], [point.value for point in hollow], **look)


def _draw_bands(panel: Axes, points: list[Point], book: dict[str, Style]) -> None:
    """For each method the span of its configurations at each length, with its marker at both ends."""
    for line in _by_method(points).values():
        look = book[line[0].series]
        values: dict[float, list[float]] = {}
        for point in line:
            # A length where nothing was measured stays, as NaN, so that no band bridges it.
            values.setdefault(_length(point), []).extend([point.value] if point.measured else [])
        lengths = sorted(values)
        lows, highs = ([end(values[n], default=math.nan) for n in lengths] for end in (min, max))
        panel.fill_between(lengths, lows, highs, color=look.colour, alpha=0.16, linewidth=0, zorder=2)
        for ends in (lows, highs):
            panel.plot(lengths, ends, color=look.colour, linestyle=look.line, marker=look.marker, markersize=3)


def _by_method(points: list[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.method, []).append(point)
    return found


def _one_a_method(points: list[Point]) -> list[Point]:
    """Of the failures of a method at one place the first; all that was measured."""
    seen: set[tuple[str, tuple[object, ...]]] = set()
    kept = []
    for point in points:
        if point.failure:
            if (point.method, point.place) in seen:
                continue
            seen.add((point.method, point.place))
        kept.append(point)
    return kept


def _mark_failures(panel: Axes, points: list[Point], book: dict[str, Style]) -> None:
    failed = [point for point in points if point.failure]
    if not failed:
        return
    stack: Counter[float] = Counter()
    heights = []
    for point in failed:
        heights.append(max(0.0, 0.975 - stack[_length(point)] * _STACK))
        stack[_length(point)] += 1
    panel.scatter(
        [_length(point) for point in failed],
        heights,
        c=[book[point.series].colour for point in failed],
        marker="x",
        s=25,
        linewidths=1.4,
        transform=panel.get_xaxis_transform(),
        zorder=4,
    )


def _limits(points: list[Point]) -> tuple[float, float]:
    """Around all intervals, with room at the top for the tallest stack of failures."""
    ends = [end for point in points for end in (point.value, point.low, point.high) if end > 0]
    bottom, top = min(ends, default=1.0), max(ends, default=1.0)
    span = max(math.log(top / bottom), 0.5)
    failed = Counter(point.place for point in points if point.failure)
    share = min(0.5, 0.06 + _STACK * max(failed.values(), default=0))
    return bottom * math.exp(-0.06 * span), top * math.exp(span * share / (1 - share))


def _slope(line: list[Point]) -> str:
    measured = [point for point in line if point.measured and not point.degenerate]
    fit = exponent([_length(point) for point in measured], [point.value for point in measured])
    return f"{fit.value:.2f}" if fit else DASH


def _label(name: str, slopes: list[str]) -> str:
    return name if set(slopes) == {DASH} else f"{name}: {' / '.join(slopes)}"


def _length(point: Point) -> float:
    return float(str(point.place[1]))
