"""`python -m reports.compare BEFORE AFTER`: which cells of two result sets differ beyond their noise, by how much.

The sets may come from two commits on one machine, or from two machines. Cells are matched by their axes. Times are
compared by the speedup over the baseline, measured in the same rounds, which cancels what the machines, or two
moments of one, differ in; peaks as they are; accuracies by Newcombe's interval for a difference of proportions.

Exit code 0: nothing is worse by more than the threshold. 1: something is. 2: the sets cannot be compared.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.load import ReportError, Run, load
from reports.points import Row, records
from reports.schema import AXES
from reports.text import plural

THRESHOLD = 0.05
CONFIDENCE = 0.95
RESAMPLES = 2000

#: Peaks that differ by less are the same: what the kernel's marks may lag behind (docs/metrics.md).
SAME_PEAK_MIB = 0.25

Verdict = Literal["worse", "better", "same"]
Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What became of one figure of one cell.

    value: after / before of a speedup or a peak, after - before of an accuracy, with its interval (NaN for a peak,
    which has none). status: set when the cell ended differently, and then there is no value.
    """

    cell: str
    figure: str
    verdict: Verdict
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    status: str = ""
    large: bool = True

    @property
    def regression(self) -> bool:
        """Worse by more than the threshold, and beyond the noise."""
        return self.verdict == "worse" and self.large

    def line(self) -> str:
        """One line of the printed table."""
        if self.status:
            return f"{self.verdict:<7}{self.cell:<58} {self.status}"
        sign = "" if self.figure in ("speedup", "peak") else "+" if self.value > 0 else ""
        unit = "" if self.figure == "accuracy" else "x"
        spread = "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.verdict:<7}{self.cell:<58} {self.figure} {sign}{self.value:.3f}{unit}{spread}"


@dataclass(frozen=True)
class Comparison:
    """Two sets beside each other: the changes of the cells in both, and the names of the cells in one only."""

    matched: int
    changes: list[Change]
    only_before: list[str]
    only_after: list[str]

    @property
    def regressions(self) -> list[Change]:
        """What makes the exit code 1."""
        return [change for change in self.changes if change.regression]


def compare(
    before: Run,
    after: Run,
    *,
    threshold: float = THRESHOLD,
    ignore: Sequence[str] = (),
    shape: bool = False,
    part: bool = False,
) -> Comparison:
    """Match the cells of two runs and judge each figure; shape: how the cells ended, and nothing else.

    part: `after` is of some of the cells only, and those it lacks are not named.
    ignore: axes in which cells may differ and still be the same, `threads` say. ReportError for an
    axis that is none, or when without it two cells of a set are alike.
    """
    unknown = [axis for axis in ignore if axis not in AXES]
    if unknown:
        raise ReportError(f"--ignore {','.join(unknown)}: no such axis; there are {', '.join(AXES)}")
    axes = [axis for axis in AXES if axis not in ignore]
    old, new = _cells(before, axes), _cells(after, axes)
    both = [key for key in old if key in new]
    samples = (_ratios(before), _ratios(after))
    changes: list[Change] = []
    for key in both:
        changes += _judge(old[key], new[key], samples, threshold, shape)
    gone = [] if part else [_name(row) for key, row in old.items() if key not in new]
    return Comparison(len(both), changes, gone, [_name(row) for key, row in new.items() if key not in old])


def _cells(run: Run, axes: Sequence[str]) -> dict[Key, Row]:
    """Row by key, over the tables with one row a cell."""
    found: dict[Key, Row] = {}
    for table in ("efficiency", "accuracy"):
        for row in records(getattr(run, table)):
            key = (table, *(str(row[axis]) for axis in axes))
            if key in found:
                raise ReportError(
                    f"{run.name}: cells {found[key]['cell_id']} and {row['cell_id']} do not differ in any axis "
                    "compared; name fewer in --ignore, or compare runs without such doubles"
                )
            found[key] = {**row, "table": table}
    return found


def _ratios(run: Run) -> dict[str, NDArray[np.float64]]:
    """cell_id -> baseline time over method time, a round each."""
    if run.samples.empty:
        return {}
    wide = run.samples.pivot_table(index=["cell_id", "round"], columns="subject", values="wall_ms")
    if not {"method", "baseline"} <= set(wide.columns):
        return {}
    ratio = (wide["baseline"] / wide["method"]).dropna()
    return {str(cell): values.to_numpy() for cell, values in ratio.groupby(level="cell_id")}


def _judge(
    old: Row, new: Row, samples: tuple[dict[str, NDArray[np.float64]], ...], threshold: float, shape: bool
) -> Iterable[Change]:
    name = _name(new)
    if old["status"] != new["status"]:
        fine = {"ok", "unsupported"}
        verdict: Verdict = "worse" if new["status"] not in fine or old["status"] == "ok" else "better"
        yield Change(
            name, "status", verdict, status=f"{old['status']} -> {new['status']} {new['reason'] or ''}".strip()
        )
        return
    if shape or new["status"] != "ok":
        return
    if new["table"] == "accuracy":
        yield difference(name, old, new, threshold)
    else:
        pair = [ratios.get(str(row["cell_id"])) for ratios, row in zip(samples, (old, new), strict=True)]
        if pair[0] is not None and pair[1] is not None:
            yield quotient(name, pair[0], pair[1], threshold)
    peaks = [float(str(row["peak_mib"])) for row in (old, new)]
    if all(math.isfinite(peak) for peak in peaks):
        yield growth(name, peaks[0], peaks[1], threshold)


def quotient(
    name: str, before: NDArray[np.float64], after: NDArray[np.float64], threshold: float, seed: int = 0
) -> Change:
    """The change of a median ratio, by bootstrap over the rounds of both; above 1 the method became faster."""
    rng = np.random.default_rng(seed)
    medians = [np.median(rng.choice(rounds, (RESAMPLES, len(rounds))), axis=1) for rounds in (before, after)]
    value = float(np.median(after) / np.median(before))
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(q) for q in np.quantile(medians[1] / medians[0], (tail, 1 - tail)))
    verdict: Verdict = "worse" if high < 1 else "better" if low > 1 else "same"
    return Change(name, "speedup", verdict, value, low, high, large=value < 1 - threshold)


def difference(name: str, old: Row, new: Row, threshold: float) -> Change:
    """The change of an accuracy, in points of 1; the interval is Newcombe's (1998), from both Wilson intervals."""
    p, p_low, p_high = (float(str(old[f"accuracy{end}"])) for end in ("", "_low", "_high"))
    q, q_low, q_high = (float(str(new[f"accuracy{end}"])) for end in ("", "_low", "_high"))
    value = q - p
    low = value - math.hypot(q - q_low, p_high - p)
    high = value + math.hypot(q_high - q, p - p_low)
    verdict: Verdict = "worse" if high < 0 else "better" if low > 0 else "same"
    return Change(name, "accuracy", verdict, value, low, high, large=value < -threshold)


def growth(name: str, before: float, after: float, threshold: float) -> Change:
    """The change of a peak, which has no interval: what is under the threshold is noise."""
    value = after / before if before else math.inf if after else 1.0
    apart = abs(after - before) > SAME_PEAK_MIB
    verdict: Verdict = "same"
    if apart and value > 1 + threshold:
        verdict = "worse"
    elif apart and value < 1 - threshold:
        verdict = "better"
    return Change(name, "peak", verdict, value)


def _name(row: Row) -> str:
    """What tells a cell from the others, in few words."""
    words = [str(row["method"])]
    budget = row["budget_value"]
    if not pd.isna(budget):  # type: ignore[call-overload]
        words.append(f"{row['budget_name']}={float(str(budget)):g}")
    words.append(f"N={row['seq_len']}")
    if row["task"] != "none":
        words.append(str(row["task"]))
    if row["table"] == "accuracy":
        words.append("accuracy")
    else:
        words.append(str(row["mode"]))
        words += [str(row["level"])] if row["level"] != "core" else []
    if row["causal"]:
        words.append("causal")
    if int(str(row["seed"])):
        words.append(f"seed {row['seed']}")
    return " ".join(words)


def text(found: Comparison, threshold: float, everything: bool) -> str:
    """What the command prints: the worst first."""
    order = {"worse": 0, "better": 1, "same": 2}
    shown = [c for c in found.changes if everything or c.verdict != "same"]
    shown.sort(key=lambda c: (order[c.verdict], c.figure, c.value))
    lines = [change.line() for change in shown]
    lines += [f"gone   {name}" for name in found.only_before] + [f"new    {name}" for name in found.only_after]
    counts = {verdict: sum(c.verdict == verdict for c in found.changes) for verdict in order}
    lines.append(
        f"{plural(found.matched, 'cell')} in both, {len(found.only_before)} gone, {len(found.only_after)} new; "
        f"of {plural(len(found.changes), 'figure')} {counts['same']} are the same within noise, "
        f"{counts['better']} better, {counts['worse']} worse, "
        f"{len(found.regressions)} by more than {threshold:.0%}"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m reports.compare", description="Compare two result sets.")
    parser.add_argument("before", type=Path, help="folder of a run, results/NAME")
    parser.add_argument("after", type=Path, help="folder of another")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="smallest change that counts; 0.05 is 5 %%"
    )
    parser.add_argument("--ignore", default="", help="axes in which the same cell may differ: threads,device")
    parser.add_argument("--shape", action="store_true", help="only which cells there are, and how they ended")
    parser.add_argument(
        "--part", action="store_true", help="the second has a part of the first's cells: none is missed"
    )
    parser.add_argument("--all", action="store_true", help="print what did not change, too")
    options = parser.parse_args(arguments)
    if not 0 <= options.threshold < 1:
        parser.error(f"--threshold {options.threshold}: expected 0 or more, and less than 1")
    try:
        found = compare(
            load([options.before]),
            load([options.after]),
            threshold=options.threshold,
            ignore=[axis for axis in options.ignore.split(",") if axis],
            shape=options.shape,
            part=options.part,
        )
    except ReportError as error:
        print(f"reports.compare: {error}", file=sys.stderr)
        return 2
    if not found.matched:
        print("reports.compare: the two have no cell in common; --ignore AXIS,... may help", file=sys.stderr)
        return 2
    print(text(found, options.threshold, options.all))
    return 1 if found.regressions or (options.shape and (found.only_before or found.only_after)) else 0


if __name__ == "__main__":
    sys.exit(main())
