"""Tables by memory: what is fastest within a limit, and the longest sequence that fits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from reports.answer import Contender, Places, ahead, alike, apart, choose
from reports.feasibility import Longest, footprint_points, limits, longest, whole_size
from reports.load import Run
from reports.points import modes
from reports.tables.base import Cell, Table
from reports.text import DASH, length, number, times


def longest_table(run: Run, suffix: str) -> Table | None:
    """A row a method and mode, a column a limit; None where no peak was measured."""
    found = longest(run)
    if not found:
        return None
    columns = sorted({one.limit_mib for one in found})
    rows: dict[tuple[str, str], list[Cell]] = {}
    for one in found:
        rows.setdefault((one.series, one.mode), []).append(_reach(one))
    return Table(
        f"longest{suffix}",
        "Longest sequence that fits",
        "Of the measured lengths, the longest whose peak fits, inputs and parameters included, but not what the "
        "process itself takes. ≥: nothing longer was measured, or nothing that says it would not fit. For "
        "the length to a sixteenth: python bench/longest.py method=METHOD memory_limit_mib=MIB",
        ("method", "mode", *(whole_size(limit) for limit in columns)),
        tuple((Cell(series), Cell(mode), *cells) for (series, mode), cells in rows.items()),
        pd.DataFrame([{**vars(one), "at_least": one.at_least} for one in found]),
    )


def _reach(one: Longest) -> Cell:
    if one.fits is None:
        return Cell(DASH, "empty", note=f"{one.next}, the shortest tried")
    shown = f"≥ {length(one.fits)}" if one.at_least else length(one.fits)
    needs = f"{length(one.fits)} needs {number(one.needs_mib)} MiB"
    return Cell(shown, "number", note=f"{needs}; {one.next or 'nothing longer was measured'}")


def within_table(run: Run, places: Places, suffix: str) -> Table | None:
    """The fastest of `contenders(run)` by mode, memory limit and length; None where no peak was measured."""
    footprints = {(point.series, point.place): point.value for point in footprint_points(run.efficiency)}
    lengths = sorted({n for _, n in places})
    rows, facts = [], []
    for mode in [mode for mode in modes(run.efficiency) if any(mode == m for m, _ in places)]:
        for limit in limits(run):
            cells = []
            for n in lengths:
                fitting = [one for one in places.get((mode, n), []) if footprints[one.series, (mode, n)] <= limit]
                cells.append(_fastest(alike(fitting), tried=(mode, n) in places))
                facts.append({"mode": mode, "limit_mib": limit, "seq_len": n, **_facts(alike(fitting))})
            rows.append((Cell(mode), Cell(whole_size(limit)), *cells))
    if not rows:
        return None
    return Table(
        f"within{suffix}",
        "Fastest method by mode, memory and length",
        "The fastest whose peak fits, inputs and parameters included; an approximation only where its interval "
        "lies above that of every exact method that fits, which is named below it. Brackets: 95 % interval of the "
        "speedup over SDPA. Then how sure: how many times as fast as the next, or who cannot be told from it.",
        ("mode", "memory", *(length(n) for n in lengths)),
        tuple(rows),
        pd.DataFrame(facts),
    )


def _ranked(fitting: Sequence[Contender]) -> tuple[Contender | None, Contender | None, Contender | None]:
    """The fastest, its rival (one that it cannot be told from, else the next), and the fastest exact one."""
    exact = choose([one for one in fitting if one.exact])
    best = ahead(choose([one for one in fitting if not one.exact]), exact)
    others = choose([one for one in fitting if one is not best])
    return best, others.best if others else None, exact.best if exact else None


def _fastest(fitting: Sequence[Contender], *, tried: bool) -> Cell:
    best, rival, exact = _ranked(fitting)
    if best is None:
        return Cell("nothing fits" if tried else DASH, "empty", note="" if tried else "not measured")
    parts = [best.series]
    if math.isfinite(best.speedup):
        parts.append(times(best.speedup, best.low, best.high))
    if rival:
        sure = apart(best, rival) and math.isfinite(best.speedup + rival.speedup)
        parts.append(
            f"{number(best.speedup / rival.speedup)} times as fast as {rival.series}"
            if sure
            else f"no difference from {rival.series}"
        )
    if not best.exact:
        parts.append(f"output error {number(best.error)}" if math.isfinite(best.error) else "error not measured")
        parts.append(f"fastest exact: {exact.series}" if exact else "no exact one fits")
    return Cell("; ".join(parts))


def _facts(fitting: Sequence[Contender]) -> dict[str, object]:
    best, rival, exact = _ranked(fitting)
    return {
        "fastest": best.series if best else "",
        "speedup": best.speedup if best else math.nan,
        "speedup_low": best.low if best else math.nan,
        "speedup_high": best.high if best else math.nan,
        "output_error": best.error if best else math.nan,
        "next": rival.series if rival else "",
        "told_apart": apart(best, rival) if best and rival else None,
        "exact": exact.series if exact else "",
    }
