"""Running one cell: its passes in processes of their own, and the record of what came out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench import isolate, torchrun
from bench.cell import RECORD_VERSION, Cell
from bench.environment import commit, env_id
from bench.errors import BenchError
from bench.fingerprint import fingerprint
from bench.match import reached
from bench.model import BASELINE_METHOD
from bench.plan import Planned

#: A cell's time limit where none was given, and that of one in which a model is trained.
TIMEOUT_S, TRAINING_TIMEOUT_S = 600.0, 3600.0

#: Share of the free memory that a cell may take where no limit was given.
MEMORY_SHARE = 0.8

#: Passes that share a process; memory needs one of its own. In this order, so that what cannot fit fails first.
GROUPS = (("memory",), ("latency", "energy"), ("error",))
TRAIN_GROUPS = (("train",), ("memory",))

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Limits:
    """How a cell may run: none of it is part of its identity."""

    isolation: str = "auto"
    timeout_s: float | None = None
    memory_mib: float | None = None
    checkpoint_s: float | None = None

    def timeout(self, cell: Cell) -> float:
        """Seconds that a cell may take."""
        return self.timeout_s or (TIMEOUT_S if cell.train is None else TRAINING_TIMEOUT_S)

    def memory(self) -> float:
        """The memory limit of one process in MiB."""
        share = MEMORY_SHARE / torchrun.local_world()
        return self.memory_mib or psutil.virtual_memory().available / 2**20 * share


@dataclass(frozen=True)
class Machine:
    """What cells on one device share: the facts that identify their rows, and the very device, for its lock."""

    environment: dict[str, str]
    board: str


def look(cell: Cell, limits: Limits) -> Machine:
    """The machine as a cell's process sees it. Raises BenchError where no process can be started."""
    job = {"passes": ["machine"], "cell": cell.content(), "memory_limit_mib": None}
    outcome = isolate.run(job, timeout_s=120.0, isolation=limits.isolation)
    if outcome.status == "error":  # it may have been killed, as any process may
        outcome = isolate.run(job, timeout_s=120.0, isolation=limits.isolation)
    if outcome.status == "unsupported" and cell.hardware.device != "cpu":
        # a device that is not there has no environment of its own: the cell says so itself
        return look(replace(cell, hardware=replace(cell.hardware, device="cpu")), limits)
    if outcome.status != "ok":
        raise BenchError(f"cannot start a cell's process: {outcome.reason}")
    return Machine(**outcome.results["machine"])


def measure_ceiling(cell: Cell, limits: Limits) -> dict[str, float]:
    """What the cell's machine can do at most (bench/measure/ceiling.py); nothing where it cannot be measured."""
    job = {"passes": ["ceiling"], "cell": cell.content(), "memory_limit_mib": None}
    outcome = isolate.run(job, timeout_s=120.0, isolation=limits.isolation)
    found: dict[str, float] = outcome.results.get("ceiling", {})
    return found


def run_cell(
    planned: Planned,
    limits: Limits,
    environment: dict[str, str],
    run: str,
    progress: Progress,
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Measure one cell. Always returns a record; only KeyboardInterrupt passes through.

    A training cell keeps its state at `checkpoint` every `limits.checkpoint_s` seconds, and goes on from there.
    """
    cell, limit = planned.cell, limits.memory()
    record = new_record(planned, environment, run)
    verdict = planned.facts.verdict
    if verdict is None and planned.facts.footprint_mib > limit:
        verdict = (
            "skipped",
            f"needs {planned.facts.footprint_mib:.0f} MiB at least, the limit is {limit:.0f} (memory_limit_mib)",
        )
    if verdict is not None:
        return {**record, "status": verdict[0], "reason": verdict[1]}
    started, measured = time.perf_counter(), 0.0
    timeout = limits.timeout(cell)
    for group in TRAIN_GROUPS if cell.table == "accuracy" else GROUPS:
        passes = [name for name in group if name in cell.measure.passes]
        if not passes:
            continue
        left = timeout - (time.perf_counter() - started)
        job: dict[str, Any] = {
            "passes": passes,
            "cell": cell.content(),
            "data_dir": cell.data_dir,
            "memory_limit_mib": limit,
        }
        if "train" in passes and checkpoint is not None and limits.checkpoint_s is not None:
            job["checkpoint"] = {
                "path": str(checkpoint.resolve()),
                "every_s": limits.checkpoint_s,
                "identity": {"cell_id": cell.cell_id, "code_fingerprint": record["code_fingerprint"]},
            }
        together = cell.hardware.processes > 1 and "train" in passes
        if together:
            job["rendezvous"] = torchrun.announce({**job, "timeout_s": left})
        outcome = isolate.run(job, timeout_s=max(left, 0.001), isolation=limits.isolation, on_progress=progress)
        if together:
            torchrun.explain(outcome, job["rendezvous"])
        record["results"] |= outcome.results
        measured += outcome.measured_s
        if outcome.status == "timeout":
            outcome.reason = f"not done after {timeout:g} s, in pass {passes[0]} (timeout_s)"
        if outcome.status != "ok":
            record |= {"status": outcome.status, "reason": outcome.reason, "traceback": outcome.traceback}
            break
    else:
        record["status"] = "ok"
    elapsed = time.perf_counter() - started
    return {**record, "elapsed_s": elapsed, "overhead_s": elapsed - measured}


def new_record(planned: Planned, environment: dict[str, str], run: str) -> dict[str, Any]:
    """A record before anything ran."""
    cell, facts = planned.cell, planned.facts
    return {
        "record_version": RECORD_VERSION,
        "run": run,
        "cell_id": cell.cell_id,
        "config_id": cell.config_id,
        "env_id": env_id(environment),
        "cell": cell.content(),
        "status": "error",
        "reason": "",
        "traceback": "",
        "results": {},
        "parameters": facts.parameters,
        "parameters_ratio": facts.parameters_ratio,
        "flops": facts.flops,
        "budget_name": facts.budget_name,
        "budget_value": facts.budget_value,
        "degenerate": facts.degenerate,
        "match_reached": reached(cell) if facts.verdict is None else None,
        "baseline": BASELINE_METHOD.name,
        "ceiling": {},
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "elapsed_s": 0.0,
        "overhead_s": 0.0,
        "code_fingerprint": fingerprint(cell),
        "commit": commit(),
    }
