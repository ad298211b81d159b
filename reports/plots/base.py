"""What every figure shares: its description, its panels, its legend and its length axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports.charts import Chart
from reports.load import Run
from reports.style import FAINT, WIDTH, Style
from reports.text import length, plain, tick

_LEGEND_INCHES = 0.165
_LETTERS_AN_INCH = 15
_HANDLE_LETTERS = 8
_MOST_TICKS = 9


@dataclass(frozen=True)
class Plot:
    """One figure of the page; `draw` returns None where the run has nothing to show, `data` what it shows.

    `chart` is its interactive twin; more than one where the figure has panels that share no axis.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Run], Figure | None]
    data: Callable[[Run], pd.DataFrame]
    charts: tuple[Callable[[Run], Chart | None], ...] = ()


def panels(count: int, *, height: float, columns: int = 3, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, each `height` inches high, in rows of at most `columns`."""
    across = min(columns, count)
    down = math.ceil(count / across)
    width = WIDTH if across > 1 else WIDTH * 0.7
    figure, grid = plt.subplots(
        down, across, figsize=(width, height * down), squeeze=False, sharey=share_y, layout="constrained"
    )
    axes: list[Axes] = list(grid.flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def length_axis(axes: Axes, lengths: Iterable[float]) -> None:
    """A logarithmic axis with a tick at the measured lengths."""
    log_axis(axes, lengths, length)
    axes.set_xlabel("sequence length (tokens)")


def log_axis(axes: Axes, values: Iterable[float], text: Callable[[float], str] = tick) -> None:
    """A logarithmic x axis with ticks at `values`, thinned where there are many."""
    places = sorted(set(values))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(places[:: math.ceil(len(places) / _MOST_TICKS)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    if places:
        axes.set_xlim(places[0] / 1.25, places[-1] * 1.25)


def number_axis(axes: Axes) -> None:
    """Plain numbers on a logarithmic y axis, with more ticks where it spans less than a decade."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    if low > 0 and high / low < 30:
        axes.yaxis.set_minor_formatter(
            FuncFormatter(lambda value, _: tick(value) if f"{value:e}"[0] in "25" else "")
        )
        axes.tick_params(axis="y", which="minor", labelsize=7)
    elif axes.get_yscale() == "log":
        # Neither drawn nor labelled, and yet a quarter of the time of a figure.
        axes.yaxis.set_minor_locator(NullLocator())


def bars(
    axes: Axes,
    ends: Sequence[tuple[float, float]],
    places: Sequence[float],
    looks: Sequence[Style],
    *,
    horizontal: bool = False,
    width: float = 1.0,
) -> None:
    """Intervals (low, high) at `places`, as one artist: a large run has thousands. Unknown ends are left out."""
    lines, colours = [], []
    for (low, high), place, look in zip(ends, places, looks, strict=True):
        if math.isfinite(low) and math.isfinite(high):
            lines.append([(low, place), (high, place)] if horizontal else [(place, low), (place, high)])
            colours.append(look.colour)
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=width, zorder=2))


def marks(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], looks: Sequence[Style], *, size: float = 5.0
) -> None:
    """Markers `size` points across, one artist a shape."""
    shapes: dict[str, list[int]] = {}
    for place, look in enumerate(looks):
        shapes.setdefault(look.marker, []).append(place)
    for shape, chosen in shapes.items():
        axes.scatter(
            [xs[place] for place in chosen],
            [ys[place] for place in chosen],
            c=[looks[place].colour for place in chosen],
            marker=shape,
            s=size**2,
            edgecolors="white",
            linewidths=0.4,
            zorder=3,
        )


def key(style: Style, label: str) -> Line2D:
    """A legend entry."""
    return Line2D([], [], color=style.colour, marker=style.marker, linestyle=style.line, label=plain(label))


def failure_key() -> Line2D:
    """The legend entry of the mark that stands for a failed cell."""
    return Line2D([], [], color=FAINT, marker="x", linestyle="none", label="failed or skipped")


def legend(figure: Figure, handles: Sequence[Artist], title: str = "") -> None:
    """One legend under all panels; the figure grows by what it needs."""
    columns = _columns([len(str(handle.get_label())) for handle in handles], figure.get_figwidth())
    rows = math.ceil(len(handles) / columns) + (1 if title else 0)
    figure.set_figheight(figure.get_figheight() + rows * _LEGEND_INCHES)
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, title=title, alignment="left")


def _columns(lengths: Sequence[int], width: float) -> int:
    """How many columns of labels of these lengths fit into `width` inches."""
    for columns in range(min(6, len(lengths)), 1, -1):
        down = math.ceil(len(lengths) / columns)
        longest = [max(lengths[start : start + down]) for start in range(0, len(lengths), down)]
        if sum(longest) + _HANDLE_LETTERS * columns <= width * _LETTERS_AN_INCH:
            return columns
    return 1
