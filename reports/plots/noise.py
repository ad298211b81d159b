"""The noise floor: SDPA timed against itself."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.fits import covers_one
from reports.load import Run
from reports.noise import pairs
from reports.plots.base import Plot, bars, marks, number_axis, panels
from reports.style import INK, Style
from reports.text import TIMES, length, plain

_MOST_LABELS = 40


def draw(run: Run) -> Figure | None:
    """The speedup interval of every cell that times the baseline against itself; None without one."""
    found = pairs(run)
    if not found:
        return None
    figure, (panel,) = panels(1, height=2.6)
    figure.set_figwidth(min(7.2, 2.5 + 0.3 * len(found)))
    fine, off = Style("#0072B2", "o", "-"), Style("#D55E00", "o", "-")
    looks = [fine if covers_one(pair.low, pair.high) else off for pair in found]
    bars(panel, [(pair.low, pair.high) for pair in found], range(len(found)), looks, width=1.8)
    marks(panel, range(len(found)), [pair.speedup for pair in found], looks, size=4)
    panel.axhline(1.0, color=INK, linewidth=0.9, zorder=1)
    ends = [abs(end - 1) for pair in found for end in (pair.low, pair.high, pair.speedup) if end == end]
    reach = 1.15 * max([0.02, *ends])
    panel.set_ylim(1 - reach, 1 + reach)
    if len(found) <= _MOST_LABELS:
        labels = [plain(f"{pair.where} {pair.mode} {length(pair.seq_len)}") for pair in found]
        panel.set_xticks(range(len(found)), labels, rotation=60, ha="right", rotation_mode="anchor")
    else:
        panel.set_xticks([])
    panel.grid(visible=False, axis="x")
    panel.set_ylabel(f"SDPA over SDPA ({TIMES})")
    number_axis(panel)
    return figure


def data(run: Run) -> pd.DataFrame:
    """The points of the figure."""
    return pd.DataFrame([vars(pair) for pair in pairs(run)])


FIGURE = Plot(
    "noise",
    "A/A pairs",
    "The same code timed against itself: an interval that covers 1 (blue) is as it should be, one that does "
    "not (orange) warns that differences of this size mean nothing on this machine.",
    draw,
    data,
)
