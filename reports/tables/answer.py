"""The table behind the first section: who is fastest at each mode and length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from reports.answer import CLOSE, Answer, Choice, Contender
from reports.tables.base import Cell, Table
from reports.text import DASH, TIMES, length, number, times

_NONE = Cell(DASH, "empty", note="none measured")


def answer_table(found: Sequence[Answer], suffix: str) -> Table:
    """A row for each mode and length: fastest exact, fastest approximate, closest, leanest."""
    rows = [
        (
            Cell(one.mode),
            Cell(length(one.seq_len)),
            *(
                _choice(choice, bold=one.distinct and choice is not None and choice.best is one.fastest)
                for choice in (one.exact, one.approximate, one.close)
            ),
            _leanest(one.leanest),
        )
        for one in found
    ]
    return Table(
        f"answer{suffix}",
        "Fastest method by mode and length",
        f"{TIMES} is the speedup over SDPA with its 95 % interval, then the margin over the next of the group; "
        "err: relative output error at the default scale of q and k; MiB: peak memory. "
        "Bold: fastest of all, where its interval overlaps no other. "
        "Configurations that equal full attention are left out.",
        (
            "mode",
            "length",
            "fastest exact",
            "fastest approximation",
            f"fastest with error ≤ {CLOSE:g}",
            "least memory",
        ),
        tuple(rows),
        pd.DataFrame([_facts(one) for one in found]),
    )


def _choice(choice: Choice | None, *, bold: bool) -> Cell:
    if choice is None:
        return _NONE
    best = choice.best
    parts = [best.series]
    if math.isfinite(best.speedup):
        parts.append(times(best.speedup, best.low, best.high))
    else:
        parts.append(f"{number(best.latency_ms)} ms")
    if choice.rival:
        parts.append(
            f"no difference from {choice.rival.series}"
            if choice.tie
            else f"{number(choice.margin)} times {choice.rival.series}"
        )
    if not best.exact:
        parts.append(f"err {number(best.error)}")
    if math.isfinite(best.peak_mib):
        parts.append(f"{number(best.peak_mib)} MiB")
    return Cell("; ".join(parts), bold=bold)


def _leanest(one: Contender | None) -> Cell:
    return Cell(f"{one.series}; {number(one.peak_mib)} MiB") if one else _NONE


def _facts(one: Answer) -> dict[str, object]:
    facts: dict[str, object] = {
        "mode": one.mode,
        "seq_len": one.seq_len,
        "fastest": one.fastest.series if one.fastest else "",
    }
    facts["fastest_distinguishable"] = one.distinct
    facts["faithful"] = one.faithful.series if one.faithful else ""
    for name, choice in (("exact", one.exact), ("approximate", one.approximate), ("close", one.close)):
        best = choice.best if choice else None
        facts[name] = best.series if best else ""
        for field in ("speedup", "low", "high", "latency_ms", "peak_mib", "error"):
            facts[f"{name}_{field}"] = getattr(best, field) if best else math.nan
        facts[f"{name}_margin"] = choice.margin if choice else math.nan
        facts[f"{name}_no_difference"] = choice.tie if choice else None
    return facts | {"least_memory": one.leanest.series if one.leanest else ""}
