"""`python -m reports.compare BEFORE AFTER`: which cells of two result sets differ beyond their noise, by how much.

The sets may come from two commits on one machine, or from two machines. Cells are matched by their axes. Times are
compared by the speedup over the baseline, measured in the same rounds, which cancels what the machines, or two
moments of one, differ in; peaks and approximation errors as they are; accuracies by Newcombe's interval for a
difference of proportions.

Exit code 0: nothing is worse by more than the threshold. 1: something is. 2: the sets cannot be compared.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.changes import SAME_ERROR, SAME_PEAK_MIB, Change, Verdict, difference, growth, number, quotient
from reports.load import ReportError, Run, load
from reports.points import Row, records
from reports.schema import AXES
from reports.text import plural

THRESHOLD = 0.05

Key = tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two sets beside each other: the changes of the rows in both, and the names of those in one only."""

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
    old, new = ({**_cells(run, axes), **_errors(run, axes)} for run in (before, after))
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
                raise _alike(run, found[key], row)
            found[key] = {**row, "table": table}
    return found


def _errors(run: Run, axes: Sequence[str]) -> dict[Key, Row]:
    """Row by key of the errors, a row a norm of q and k and a layer; two cells may have measured the same."""
    found: dict[Key, Row] = {}
    for table in ("errors", "trained_errors"):
        for row in records(getattr(run, table)):
            key = (table, *(str(row[axis]) for axis in (*axes, "qk_norm", "layer")))
            other = found.setdefault(key, {**row, "table": "errors"})
            apart = abs(number(row, "output_error") - number(other, "output_error"))
            if apart > SAME_ERROR:  # False for NaN
                raise _alike(run, other, row)
    return found


def _alike(run: Run, one: Row, other: Row) -> ReportError:
    return ReportError(
        f"{run.name}: cells {one['cell_id']} and {other['cell_id']} do not differ in any axis compared; "
        "name fewer in --ignore, or compare runs without such doubles"
    )


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
    if new["table"] == "errors":
        errors = [number(row, "output_error") for row in (old, new)]
        if all(math.isfinite(error) for error in errors):
            yield growth(name, "error", errors[0], errors[1], threshold, SAME_ERROR)
        return
    if new["table"] == "accuracy":
        yield difference(name, old, new, threshold)
    else:
        pair = [ratios.get(str(row["cell_id"])) for ratios, row in zip(samples, (old, new), strict=True)]
        if pair[0] is not None and pair[1] is not None:
            yield quotient(name, pair[0], pair[1], threshold)
    peaks = [number(row, "peak_mib") for row in (old, new)]
    if all(math.isfinite(peak) for peak in peaks):
        yield growth(name, "peak", peaks[0], peaks[1], threshold, SAME_PEAK_MIB)


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
    elif row["table"] == "errors":
        norm = number(row, "qk_norm")
        words += [] if math.isnan(norm) else [f"|q|,|k| x {norm:g}"]
        words += [] if pd.isna(row["layer"]) else [f"layer {row['layer']}"]  # type: ignore[call-overload]
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
        f"{plural(found.matched, 'row')} in both, {len(found.only_before)} gone, {len(found.only_after)} new; "
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
