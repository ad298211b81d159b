"""Ray: a task a cell, on a local cluster or on one that is named. Extra `ray`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.jobs import Needs
from bench.schedulers.command import command, run

#: Times that a task is tried again when its worker dies.
RETRIES = 2


def results(folder: Path, kinds: Mapping[Needs, Sequence[str]], address: str | None) -> Iterator[tuple[str, str]]:
    """(cell id, complaint or nothing) as cells end. address: of a cluster; None starts one on this machine."""
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise BenchError("ray is not installed: pip install ray") from error
    where: dict[str, Any] = {"address": address}
    if address is None:  # its worth of CPUs is one cell at a time: two at once would measure each other
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: anything else would go first
        where = {"num_cpus": 1, "include_dashboard": False}
    ray.init(**where, log_to_driver=False, configure_logging=False)
    try:
        pending: dict[Any, str] = {}
        for needs, cells in kinds.items():
            wanted = {"num_gpus": 0 if needs.device == "cpu" else 1, "num_cpus": 1}
            if address is not None:  # it waits for a node that has this
                wanted |= {"num_cpus": needs.cpus, "memory": needs.memory_mib * 2**20}
            task = ray.remote(run).options(max_retries=RETRIES, **wanted)
            pending |= {task.remote(command(folder, cell)): cell for cell in cells}
        while pending:
            done, _ = ray.wait(list(pending))
            for reference in done:
                cell = pending.pop(reference)
                try:
                    yield cell, ray.get(reference)
                except Exception as error:  # a worker that died too often: whatever ray makes of it
                    yield cell, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        ray.shutdown()
