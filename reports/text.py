"""Numbers, lengths and names as a reader wants them, and escaped for where they stand."""

from __future__ import annotations

import math
import re

#: Written as escapes, for both look like plain ASCII characters.
TIMES = "\u00d7"
DASH = "\u2013"

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        TIMES: r"$\times$",
        DASH: "--",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "°": r"$^\circ$",
        "†": r"$^\dagger$",
        "·": r"$\cdot$",
    }
)
_MARKDOWN = str.maketrans({"&": "&amp;", "<": "&lt;", **{char: f"\\{char}" for char in "\\`*_|[]"}})


def number(value: float) -> str:
    """Three significant digits, thousands separated; a dash where there is none."""
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size < 0.001:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"


def interval(value: float, low: float, high: float) -> str:
    """A value with its interval, or alone where the interval is unknown."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(value)
    size = max(abs(value), abs(high))
    if not 0.001 <= size < 99.95:
        return f"{number(value)} [{number(low)}, {number(high)}]"
    # One count of decimals for all three, so that they compare at a glance.
    digits = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def times(value: float, low: float, high: float) -> str:
    """A factor with its interval: `1.20\u00d7 [1.15, 1.25]`."""
    value_text, bracket, ends = interval(value, low, high).partition(" [")
    return f"{value_text}{TIMES}{bracket}{ends}"


def tick(value: float) -> str:
    """A number on an axis or in a label: as short as it is exact."""
    return f"{value:,.6g}"


def percent(value: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * value:.1f}" if math.isfinite(value) else DASH


def length(tokens: float) -> str:
    """A sequence length, short: 512, 1K, 16K."""
    whole = round(tokens)
    return f"{whole // 1024}K" if whole >= 1024 and whole % 1024 == 0 else f"{whole:,}"


def listing(parts: list[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def plural(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def slug(name: str) -> str:
    """A file or anchor name from any text."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"


def latex(name: str) -> str:
    """Any text, safe in LaTeX."""
    return " ".join(name.split()).translate(_LATEX)


def markdown(name: str) -> str:
    """Any text, safe in a Markdown table cell."""
    return " ".join(name.split()).translate(_MARKDOWN)


def plain(name: str) -> str:
    """Any text as a matplotlib label: a dollar sign would start a formula."""
    return " ".join(name.split()).replace("$", r"\$")
