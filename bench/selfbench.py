"""`make selfbench`: how fast the harness itself is, and whether its intervals cover what they say.

python -m bench.selfbench                 the harness's own speed against its limits; exit 1 when one is missed
python -m bench.selfbench --pairs 200     the baseline against itself, 200 times: how often intervals hold 1
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf
from tqdm import tqdm

from bench.cell import Cell
from bench.collect import collect
from bench.compose import Composer, hydra_context
from bench.execute import Limits, look, new_record
from bench.plan import Planned, plan_cells, sweep_cells
from bench.resolve import cell_from_config
from bench.stats import share, speedup
from bench.store import Store
from bench.sweep import run_plan

CELLS = 10_000


@dataclass(frozen=True)
class Figure:
    """One measured figure and its limit."""

    name: str
    value: float
    unit: str
    limit: float

    def line(self) -> str:
        """As it is printed."""
        verdict = "ok" if self.value <= self.limit else "MISSED"
        return f"{self.name:<58}{self.value:10.3f} {self.unit:<8} limit {self.limit:g} {self.unit}  {verdict}"


def _for_seconds(item: Planned, seconds: float) -> Cell:
    """The cell with rounds for so long, and no end before."""
    measure = replace(item.cell.measure, precision=0.0, max_rounds=10**6, budget_s=seconds)
    return replace(item.cell, measure=measure)


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """A function that gives the seconds since the block began, or that it took."""
    start, end = time.perf_counter(), None
    yield lambda: (end or time.perf_counter()) - start
    end = time.perf_counter()


def plan_of(count: int) -> list[Planned]:
    """A plan of about `count` cells as a large sweep has them: methods with budgets, lengths, modes, seeds."""
    methods = ["sdpa", "linear", "longformer method.window=64", "performer method.features=64", "linformer"]
    grid: dict[str, Any] = {
        "method": methods,
        "seq_len": [128, 256, 512, 1024],
        "mode": ["forward", "train"],
        "heads": [2, 4],
        "seed": list(range(-(-count // 80))),
    }
    with hydra_context():
        sweep = OmegaConf.create({"name": "large", "grids": {"costs": grid}})
        return plan_cells(sweep_cells(sweep, [], Composer()))[:count]


def record_of(item: Planned, environment: dict[str, str], run: str) -> dict[str, Any]:
    """A record as large as a measured one."""
    samples = [
        {"round": r, "position": p, "subject": s, "wall_s": 0.001 + r * 1e-6, "cpu_s": 0.002, "calls": 20}
        for r in range(10)
        for p, s in enumerate(("method", "baseline"))
    ]
    latency = {"samples": samples, "backend": "eager", "baseline_backend": "sdpa:flash", "tokens": 1024}
    results = {"latency": latency, "memory": {"peak_mib": 1.0, "peak_way": "high_water"}}
    return {**new_record(item, environment, run), "status": "ok", "results": results}


def own_speed(count: int) -> list[Figure]:
    """Time of planning, of a second run over done cells, of collecting; what a cell adds; what the parent uses."""
    figures = []
    with stopwatch() as seconds:
        plan = plan_of(count)
    figures.append(Figure(f"planning {count} cells", seconds(), "s", 10))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder, "done")
        store.open()
        environment = look(plan[0].cell, Limits()).environment
        for item in tqdm(plan, desc="writing records", unit="cell", disable=None):
            store.write_record(record_of(item, environment, "done"))
        with stopwatch() as seconds:
            run_plan(plan, store, Limits(), "none", bar=False, tables=False)
        figures.append(Figure(f"a second run over {count} done cells, without tables", seconds(), "s", 10))
        with stopwatch() as seconds:
            collect(store)
        figures.append(Figure(f"collecting {count} records", seconds(), "s", 10))

        cells = [_for_seconds(item, 0.0) for item in plan[:20]]
        summary = run_plan(plan_cells(cells), Store(folder, "small"), Limits(), "none", bar=False, tables=False)
        overhead = statistics.median(record["overhead_s"] for record in summary.records)
        figures.append(Figure("a cell's overhead, median", overhead, "s", 0.5))

        before = os.times()
        long = plan_cells([_for_seconds(plan[0], 8.0)])
        with stopwatch() as seconds:
            run_plan(long, Store(folder, "long"), Limits(), "none", bar=False, tables=False)
        after = os.times()
        own = after.user - before.user + after.system - before.system
        figures.append(Figure("the parent's share of a core in a measurement", own / seconds(), "cores", 0.1))
    return figures


def coverage(pairs: int) -> tuple[int, int]:
    """(intervals that hold 1, pairs) of the baseline timed against itself, at several lengths and both modes."""
    held = 0
    with hydra_context(), tempfile.TemporaryDirectory() as folder:
        composer = Composer()
        fixed = ["method=sdpa", "measure.passes=[latency]", "measure.budget_s=0.5", "heads=4"]
        cells = []
        for seed in range(pairs):
            shape = [f"seq_len={(128, 512, 1024)[seed % 3]}", f"mode={('forward', 'train')[seed % 2]}"]
            cells.append(cell_from_config(composer.compose([*fixed, *shape, f"seed={seed}"])))
        summary = run_plan(plan_cells(cells), Store(folder, "pairs"), Limits(), "none")
    for record in summary.records:
        found = speedup(record["results"]["latency"]["samples"])
        held += found.low <= 1 <= found.high
    return held, len(summary.records)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.selfbench", description="The harness measures itself.")
    parser.add_argument("--cells", type=int, default=CELLS, help="size of the plan")
    parser.add_argument("--pairs", type=int, default=0, help="time the baseline against itself so often, instead")
    options = parser.parse_args(arguments)
    if options.pairs:
        held, pairs = coverage(options.pairs)
        found = share(held, pairs)
        print(f"{held} of {pairs} intervals of the baseline against itself hold 1: {found.value:.1%} ")
        print(f"(95 % interval of that share: {found.low:.1%} to {found.high:.1%}; expected 92 % to 98 %)")
        return 0 if found.low <= 0.98 and found.high >= 0.92 else 1
    figures = own_speed(options.cells)
    print("\n".join(figure.line() for figure in figures))
    return 0 if all(figure.value <= figure.limit for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
