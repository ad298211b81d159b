"""Tables of cost over the sequence length, with exponents and crossover lengths."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from reports.fits import SHORTEST, Crossover, Estimate, crossover, exponent, extrapolated
from reports.load import Run
from reports.points import Point, by_line, cost_points, modes, ordered_series
from reports.tables.base import Cell, Table
from reports.tables.grid import Key, best, grid
from reports.text import DASH, TIMES, length, plural

_PAIRED = "Bold: the best of a column, where its interval overlaps no other, nor does that of its speedup. "
#: name -> when a cell is bold
_BOLD = {
    "time": _PAIRED,
    "throughput": _PAIRED,
    "memory": "Bold: the least of a column, where no other lies within the error of a peak (2 %, or 0.25 MiB). ",
    "speedup": "Bold: the best of a column, where its interval overlaps no other. ",
}
_DEGENERATE = "°: this configuration equals full attention. Brackets: 95 % interval."

#: How well a peak is known: tests/bench/test_memory.py holds it to this on known allocations.
PEAK_SHARE = 0.02
PEAK_MIB = 0.25

#: name -> column, title, unit, and whether higher is better
_COSTS: dict[str, tuple[str, str, bool]] = {
    "time": ("latency_ms", "Time of one pass (ms)", False),
    "throughput": ("tokens_per_s", "Tokens per second", True),
    "memory": ("peak_mib", "Peak memory (MiB)", False),
    "speedup": ("speedup", f"Speedup over SDPA ({TIMES})", True),
}


def scaling_tables(run: Run, suffix: str) -> list[Table]:
    """Time, throughput, memory and speedup by series and length, a table a mode; then the fits."""
    frame = run.efficiency
    all_points = {name: cost_points(frame, column, ("mode", "seq_len")) for name, (column, _, _) in _COSTS.items()}
    tables = []
    for name, (_, title, _) in _COSTS.items():
        bold = _distinguished(all_points, name)
        for mode in modes(frame):
            here = [point for point in all_points[name] if point.place[0] == mode]
            lengths = sorted({int(str(point.place[1])) for point in here})
            tables.append(
                grid(
                    here,
                    name=f"{name}-{mode}{suffix}",
                    title=f"{title}, {mode}",
                    caption=_BOLD[name] + _DEGENERATE,
                    columns=[(mode, n) for n in lengths],
                    column_names=[length(n) for n in lengths],
                    place_names=("mode", "seq_len"),
                    bold=bold,
                )
            )
    return [*tables, _fits(run, suffix)]


def _distinguished(points: dict[str, list[Point]], name: str) -> set[Key]:
    """What is bold in the tables called `name`."""
    higher = _COSTS[name][2]
    if name == "memory":
        return best([_peak_bounds(point) for point in points[name]], higher=higher)
    if name == "speedup":
        return best(points[name], higher=higher)
    # Cells are timed one after the other, and a busy machine drifts meanwhile: only what was paired can confirm.
    paired = {(point.series, point.place) for point in points["speedup"] if point.measured}
    timed = {(point.series, point.place) for point in points[name] if point.measured}
    confirmed = best(points["speedup"], higher=True)
    unpaired = {place for _, place in timed - paired}
    return {key for key in best(points[name], higher=higher) if key in confirmed or key[1] in unpaired}


def _peak_bounds(point: Point) -> Point:
    """A peak has no interval of its own; how well it is known is tested on known allocations (docs/metrics.md)."""
    slack = max(PEAK_SHARE * point.value, PEAK_MIB)
    return replace(point, low=point.value - slack, high=point.value + slack)


def _fits(run: Run, suffix: str) -> Table:
    frame = run.efficiency
    by_column = {
        column: cost_points(frame, column, ("mode", "seq_len")) for column in ("latency_ms", "peak_mib", "speedup")
    }
    baselines = set(frame["baseline"])
    by_column["saving"] = _savings(by_column["peak_mib"], baselines)
    lines_of = {column: by_line(filter(_fit_for, points)) for column, points in by_column.items()}
    rows, facts = [], []
    for mode in modes(frame):
        for series, method in ordered_series(frame):
            lines = {column: found.get((series, mode), []) for column, found in lines_of.items()}
            time, memory = (_exponent(lines[column]) for column in ("latency_ms", "peak_mib"))
            crossings = {
                column: Crossover("baseline") if method in baselines else _crossover(lines[column])
                for column in ("speedup", "saving")
            }
            rows.append(
                (
                    Cell(series),
                    Cell(mode),
                    _exponent_cell(time),
                    _exponent_cell(memory),
                    *(_crossover_cell(cross, lines[column]) for column, cross in crossings.items()),
                )
            )
            facts.append({"series": series, "method": method, "mode": mode, **_facts(time, memory, crossings)})
    return Table(
        f"exponents{suffix}",
        "Scaling exponents and crossover lengths",
        f"Exponent: cost grows as length to this power, by least squares over at least three lengths from "
        f"{SHORTEST} tokens, without configurations that equal full attention. Crossover: the length from "
        f"which the method is faster than SDPA, or its peak lower, interpolated between measured lengths; after ~ "
        f"extrapolated by the law that at least three lengths follow. Brackets: 95 % interval; of a memory "
        f"crossover, what follows from readings of peaks that may be {100 * PEAK_SHARE:.0f} % off.",
        ("method", "mode", "time exponent", "memory exponent", "crossover with SDPA", "memory crossover"),
        tuple(rows),
        pd.DataFrame(facts),
    )


def _fit_for(point: Point) -> bool:
    return point.measured and not point.degenerate


def _length(point: Point) -> float:
    return float(str(point.place[1]))


def _exponent(line: list[Point]) -> Estimate | None:
    return exponent([_length(point) for point in line], [point.value for point in line])


def _savings(peaks: list[Point], baselines: set[str]) -> list[Point]:
    """The baseline's peak over that of each point, at the same place: above 1 the method needs less."""
    base = {point.place: point.value for point in peaks if point.method in baselines and point.measured}
    off = (1 + PEAK_SHARE) / (1 - PEAK_SHARE)
    return [
        replace(point, value=ratio, low=ratio / off, high=ratio * off)
        for point in peaks
        if point.place in base and point.value > 0
        for ratio in [base[point.place] / point.value]
    ]


def _crossover(line: list[Point]) -> Crossover:
    lengths, values = [_length(point) for point in line], [point.value for point in line]
    found = crossover(lengths, values, [point.low for point in line], [point.high for point in line])
    if found.verdict == "not within the measured range":
        return extrapolated(lengths, values) or found
    return found


def _exponent_cell(fit: Estimate | None) -> Cell:
    if fit is None:
        return Cell(DASH, "empty", note="fewer than three lengths")
    return Cell(f"{fit.value:.2f} [{fit.low:.2f}, {fit.high:.2f}]", "number", note=plural(fit.count, "length"))


def _crossover_cell(cross: Crossover, line: list[Point]) -> Cell:
    if not line:
        return Cell(DASH, "empty", note="not measured")
    lengths = [_length(point) for point in line]
    shortest, longest = length(min(lengths)), length(max(lengths))
    if cross.verdict == "baseline":
        return Cell("baseline", note="timed against itself; see noise")
    if cross.verdict == "always faster":
        return Cell(f"below {shortest}, the shortest measured", note="better at every measured length")
    if cross.verdict == "no difference":
        return Cell("no difference", note="every interval covers 1")
    if cross.value is None:
        return Cell(f"not within {shortest} to {longest}", note=cross.verdict)
    if cross.verdict == "extrapolated":
        low, high = (_rounded(end) if end is not None else DASH for end in (cross.low, cross.high))
        return Cell(f"~{_rounded(cross.value)} [{low}, {high}]", "number", note=f"extrapolated beyond {longest}")
    low = length(cross.low) if cross.low else f"below {shortest}"
    high = length(cross.high) if cross.high else f"above {longest}"
    return Cell(f"{length(cross.value)} [{low}, {high}]", "number")


def _rounded(tokens: float) -> str:
    """An extrapolated length, to two digits."""
    return f"{float(f'{tokens:.1e}'):,.0f}"


def _facts(time: Estimate | None, memory: Estimate | None, crossings: dict[str, Crossover]) -> dict[str, object]:
    facts: dict[str, object] = {}
    for name, fit in (("time", time), ("memory", memory)):
        facts[f"{name}_exponent"] = fit.value if fit else None
        facts[f"{name}_exponent_low"] = fit.low if fit else None
        facts[f"{name}_exponent_high"] = fit.high if fit else None
    for prefix, cross in (("", crossings["speedup"]), ("memory_", crossings["saving"])):
        facts |= {
            f"{prefix}crossover": cross.verdict,
            f"{prefix}crossover_length": cross.value,
            f"{prefix}crossover_low": cross.low,
            f"{prefix}crossover_high": cross.high,
        }
    return facts
