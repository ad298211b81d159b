"""How figures look: one colour, marker and line style a method, and bytes that do not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import matplotlib as mpl
import seaborn as sns
from matplotlib.colors import to_hex, to_rgb
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

Line = Literal["-", "--", "-.", ":"]

#: Inches; the width of a two-column text page.
WIDTH = 7.2
PNG_DPI = 200
INK = "#2b2f36"
FAINT = "#8a9099"

# Okabe and Ito's palette; what is too light for white (below 3:1) is darkened: yellow, orange and sky blue.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#C78500", "#3A97D3", "#9A8700")
#: What the page is drawn on when it is dark.
DARK = "#1d2126"
_CONTRAST = 4.5
_NEUTRAL = 0.12
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d", "H")
_LINES: tuple[Line, ...] = ("-", "--", "-.", ":")

_KNOWN: dict[str, tuple[str, str, Line]] = {
    "full": ("#000000", "o", "-"),
    "sdpa": ("#6b7280", "s", "--"),
    "longformer": ("#0072B2", "^", "-"),
    "bigbird": ("#D55E00", "D", "-"),
    "reformer": ("#009E73", "v", "-"),
    "linformer": ("#CC79A7", "P", "-"),
    "performer": ("#C78500", "X", "-"),
    "local": ("#3A97D3", "<", "--"),
    "linear": ("#9A8700", ">", "--"),
    "nystromformer": ("#0072B2", "p", "--"),
    "topk": ("#D55E00", "h", "--"),
    "cosformer": ("#009E73", "d", "--"),
    "flex": ("#CC79A7", "H", "--"),
}


@dataclass(frozen=True)
class Style:
    """How one series is drawn."""

    colour: str
    marker: str
    line: Line

    @property
    def on_dark(self) -> str:
        """The colour on a dark page: black is white there, a hue as much lighter as it takes to be read."""
        parts = to_rgb(self.colour)
        neutral = max(parts) - min(parts) < _NEUTRAL
        grey = 1 - 0.9 * sum(parts) / 3
        start = to_hex((grey, grey, grey)) if neutral else self.colour
        shades = (_lighter(start, step / 100) for step in range(101))
        return next(shade for shade in shades if contrast(shade, DARK) >= _CONTRAST)

    def variant(self, index: int, count: int) -> Style:
        """The same method at another budget: lighter for the smaller ones."""
        share = 0.0 if count < 2 else 0.62 * (1 - index / (count - 1))
        return replace(self, colour=_lighter(self.colour, share))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21, as WCAG 2 defines it."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour))
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def _lighter(colour: str, share: float) -> str:
    red, green, blue = (channel + (1 - channel) * share for channel in to_rgb(colour))
    return to_hex((red, green, blue))


@lru_cache(maxsize=32)
def outline(marker: str) -> str:
    """The shape of a marker as SVG path data, 1 across, so that charts and figures share it."""
    shape = MarkerStyle(marker)
    path = shape.get_path().transformed(shape.get_transform())
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
    parts = []
    for points, code in path.iter_segments(simplify=False):
        # SVG counts down the page.
        numbers = " ".join(f"{-v if i % 2 else v:.3g}" for i, v in enumerate(points))
        parts.append("Z" if code == Path.CLOSEPOLY else f"{letters[code]}{numbers}")
    return "".join(parts)


@lru_cache(maxsize=8)
def styles(methods: tuple[str, ...]) -> dict[str, Style]:
    """A style for each method, no two alike: known names have theirs, others take one by their name."""
    taken = {Style(*parts) for parts in _KNOWN.values()}
    # Ordered so that neighbours differ in colour and marker at once.
    free = [
        Style(colour, _MARKERS[(place + 5 * shift) % len(_MARKERS)], _LINES[shift % len(_LINES)])
        for shift in range(len(_MARKERS) * len(_LINES))
        for place, colour in enumerate(_COLOURS)
    ]
    free = [style for style in dict.fromkeys(free) if style not in taken]
    chosen: dict[str, Style] = {}
    for name in sorted(methods):
        if name in _KNOWN:
            chosen[name] = Style(*_KNOWN[name])
            continue
        start = int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(free)
        candidates = free[start:] + free[:start]
        used = set(chosen.values())
        chosen[name] = next((style for style in candidates if style not in used), candidates[0])
    return chosen


def series_styles(methods: tuple[str, ...], series: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """A style for each (series, method) pair; the budgets of one method are shades of its colour."""
    book = styles(methods)
    groups: dict[str, list[str]] = {}
    for name, method in series:
        groups.setdefault(method, []).append(name)
    return {
        name: book[method].variant(index, len(names))
        for method, names in groups.items()
        for index, name in enumerate(names)
    }


def use_theme() -> None:
    """Set the theme, for this process: publication sizes, and SVG that is equal byte by byte."""
    mpl.use("agg")
    sns.set_theme(
        context="paper",
        style="whitegrid",
        font="DejaVu Sans",
        rc={
            "svg.hashsalt": "attnbench",
            "svg.fonttype": "path",
            "figure.dpi": 100,
            "font.size": 8,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 8,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.edgecolor": "#c8ccd2",
            "axes.linewidth": 0.8,
            "axes.formatter.use_mathtext": False,
            "grid.color": "#e6e8eb",
            "grid.linewidth": 0.6,
            "xtick.labelsize": 7.5,
            "ytick.labelsize": 7.5,
            "xtick.color": INK,
            "ytick.color": INK,
            "text.color": INK,
            "legend.fontsize": 7.5,
            "legend.title_fontsize": 7.5,
            "legend.frameon": False,
            "lines.linewidth": 1.4,
            "lines.markersize": 5,
        },
    )
