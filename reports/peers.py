"""`python -m reports.peers results/peers`: ours and third-party code side by side, as text.

One block a length and thread count, in it one group a mechanism and configuration. Times are ratios to SDPA timed
in the same rounds (below 1 is faster), with 95 % intervals; memory is the peak beyond inputs and parameters.
The last columns are the ratio over that of the fastest third-party code of the group.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from reports.load import ReportError, Run, load
from reports.points import Row, records
from reports.text import DASH, interval, number

MODES = ("forward", "train")

#: What the names of methods that run other people's code begin with, or are.
BEGINNINGS = ("hf_", "lucidrains_")
NAMES = ("fla", "flash_attn", "xformers")

#: Method (without such a beginning) -> its mechanism, and the parameters that two of a group have in common.
MECHANISMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "longformer": ("window", ("window",)),
    "local": ("window", ("window",)),
    "bigbird": ("bigbird", ("block", "random_blocks")),
    "reformer": ("reformer", ("chunk", "rounds")),
    "linformer": ("linformer", ("rank",)),
    "performer": ("performer", ("features",)),
    "nystromformer": ("nystromformer", ("landmarks",)),
    "linear": ("linear", ()),
    "fla": ("linear", ()),
}

HEADER: tuple[str, ...] = (
    "",
    "forward / SDPA",
    "train / SDPA",
    "MiB forward",
    "MiB train",
    "vs best third party",
    "train",
)


@dataclass(frozen=True)
class Figure:
    """What one cell gave: its ratio to SDPA with interval, its peak; NaN where it failed, with the reason."""

    ratio: float
    low: float
    high: float
    peak: float
    status: str
    reason: str


@dataclass(frozen=True)
class Line:
    """One method of a group, in both modes where both were run."""

    method: str
    figures: dict[str, Figure]

    @property
    def third_party(self) -> bool:
        """Whether this is other people's code."""
        return third_party(self.method)

    def ratio(self, mode: str) -> float:
        """The ratio to SDPA, NaN without one."""
        return self.figures[mode].ratio if mode in self.figures else math.nan


def third_party(method: str) -> bool:
    """Whether a method of this name is other people's code."""
    return method in NAMES or method.startswith(BEGINNINGS)


def mechanism(method: str, params: str, causal: object = False) -> str:
    """The group of a method with these parameters (JSON): `bigbird, block 64, random_blocks 3`."""
    bare = method
    for beginning in BEGINNINGS:
        bare = bare.removeprefix(beginning)
    name, shared = MECHANISMS.get(bare, ("exact", ()))
    given = json.loads(params)
    words = [name, *(f"{key} {given[key]}" for key in shared if key in given), *["causal"] * bool(causal)]
    return ", ".join(words)


def render(run: Run) -> str:
    """The whole text."""
    frame = run.efficiency[run.efficiency["level"] == "core"]
    if frame.empty:
        raise ReportError(f"{run.name}: no costs of a core in it; to measure them: make peers")
    return "\n".join("\n".join(_block(key, rows)) for key, rows in blocks(run).items())


def blocks(run: Run) -> dict[tuple[str, int, int], list[Row]]:
    """The costs of cores by (environment, threads, length), in order."""
    found: dict[tuple[str, int, int], list[Row]] = {}
    for row in records(run.efficiency[run.efficiency["level"] == "core"]):
        key = (str(row["env_id"]), _whole(row["threads"]), _whole(row["seq_len"]))
        found.setdefault(key, []).append(row)
    return dict(sorted(found.items()))


def _block(key: tuple[str, int, int], rows: list[Row]) -> Iterator[str]:
    """Heading, groups, and the reasons of what failed."""
    env, threads, seq_len = key
    shape = f"{rows[0]['heads']} x {rows[0]['head_dim']}, batch {rows[0]['batch_size']}, {rows[0]['dtype']}"
    yield f"seq_len {seq_len:,}, {shape}, {rows[0]['device']}, {threads} threads, environment {env}"
    yield f"SDPA: {', '.join(_baseline(rows))}"
    table: list[tuple[str, ...]] = [HEADER]
    for group, lines in grouped(rows).items():
        table.append((group, *[""] * (len(HEADER) - 1)))
        table += [described(line, lines) for line in lines]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(HEADER))]
    for cells in table:
        first, *others = (
            f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        yield "  ".join([first, *others]).rstrip()
    failed: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            failed.setdefault(f"{row['method']}: {row['status']}: {row['reason']}", []).append(str(row["mode"]))
    yield from (f"  {' and '.join(sorted(set(modes)))} of {what}" for what, modes in failed.items())
    yield ""


def _baseline(rows: list[Row]) -> Iterator[str]:
    """Its time in each mode: the median over cells of time x speedup."""
    for mode in MODES:
        ran = [row for row in rows if row["mode"] == mode and row["status"] == "ok"]
        if ran:
            yield f"{mode} {number(median(_real(row['latency_ms']) * _real(row['speedup']) for row in ran))} ms"


def grouped(rows: list[Row]) -> dict[str, list[Line]]:
    """Lines by mechanism, ours first, the fastest first."""
    figures: dict[tuple[str, str], dict[str, Figure]] = {}
    for row in rows:
        group = mechanism(str(row["method"]), str(row["method_params"]), row["causal"])
        figures.setdefault((group, str(row["method"])), {})[str(row["mode"])] = _figure(row)
    groups: dict[str, list[Line]] = {}
    for (group, method), found in figures.items():
        groups.setdefault(group, []).append(Line(method, found))
    for lines in groups.values():
        lines.sort(key=lambda line: (line.third_party, _last(line.ratio("forward")), line.method))
    return dict(sorted(groups.items()))


def _figure(row: Row) -> Figure:
    ratio, low, high = (1 / _real(row[name]) for name in ("speedup", "speedup_high", "speedup_low"))
    return Figure(ratio, low, high, _real(row["peak_mib"]), str(row["status"]), str(row["reason"]))


def described(line: Line, lines: list[Line]) -> tuple[str, ...]:
    """One row of the table, under `HEADER`; `lines` is its group."""
    ratios, peaks, against = [], [], []
    for mode in MODES:
        figure = line.figures.get(mode)
        if figure is None:
            ratios.append(DASH)
            peaks.append(DASH)
        else:
            failed = figure.status != "ok"
            ratios.append(figure.status if failed else interval(figure.ratio, figure.low, figure.high))
            peaks.append(number(figure.peak))
        best = min((other.ratio(mode) for other in lines if other.third_party), key=_last, default=math.nan)
        against.append("" if line.third_party else number(line.ratio(mode) / best))
    return (f"  {line.method}", *ratios, *peaks, *against)


def _last(value: float) -> float:
    """For sorting: what there is no value of comes last."""
    return value if math.isfinite(value) else math.inf


def _real(value: object) -> float:
    return float(str(value)) if value is not None else math.nan


def _whole(value: object) -> int:
    return int(float(str(value)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 when it stands, 2 when the input cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m reports.peers", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder with the CSV files of a run")
    try:
        print(render(load(parser.parse_args(arguments).runs)), end="")
    except ReportError as error:
        print(f"reports: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
