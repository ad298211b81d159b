"""Trainings side by side on one machine, as many as its cores hold; the costs after them, each alone.

A small training gains little from a second thread, and so would leave cores idle. Helpers are processes that run
the same cells by `bench/one.py`: whoever is free takes the next, as workers of several machines do.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

from bench.execute import Limits
from bench.jobs import publish
from bench.plan import Planned
from bench.schedulers.command import command, last_line
from bench.store import Store
from bench.sweep import Summary, run_plan


def that_fit(plan: Sequence[Planned], cores: int) -> int:
    """How many of a plan's trainings run at a time on so many cores; 1 where one of them is on another device."""
    trained = [item.cell.hardware for item in _trainings(plan)]
    if not trained or any(hardware.device != "cpu" for hardware in trained):
        return 1
    return max(1, min(cores // max(hardware.threads for hardware in trained), len(trained)))


def run_side_by_side(
    plan: Sequence[Planned], store: Store, limits: Limits, rerun: str, workers: int, bar: bool
) -> Summary:
    """`run_plan` of the whole plan, its trainings first and `workers` at a time."""
    trainings = _trainings(plan)
    if workers == 1 or len(trainings) < 2:
        return run_plan(plan, store, limits, rerun, bar=bar)
    pending = publish(store, plan, limits, rerun)
    waiting = [item.cell.cell_id for item in _trainings(pending)]
    with _helpers(store, waiting, min(workers, len(waiting)) - 1) as helpers:
        summary, lost = run_plan(trainings, store, limits, "none", bar=bar), []
        if not summary.interrupted:
            lost = [complaint for helper in helpers if (complaint := helper.complaint())]
    if not summary.interrupted:  # now the costs, and what a lost helper left
        summary = run_plan(plan, store, limits, "none", bar=bar)
        summary.complaints = [*lost, *summary.complaints]
    else:
        summary.planned = len(plan)
        records = (store.read(item.cell.cell_id) for item in plan)
        summary.records = [record for record in records if record is not None]
    summary.executed = len(summary.records) - (len(plan) - len(pending))
    return summary


def _trainings(plan: Sequence[Planned]) -> list[Planned]:
    return [item for item in plan if item.cell.table == "accuracy"]


@dataclass
class _Helper:
    """A process that runs cells. What it has to say is in the records, unless it could not run at all."""

    process: subprocess.Popen[bytes]
    said: IO[str]

    def complaint(self) -> str:
        """Wait for its end; what went wrong, or nothing where all went well or others had some of the cells."""
        code = self.process.wait()
        if code in (0, 1):
            return ""
        self.said.seek(0)
        return f"a helper ended with exit code {code}: {last_line(self.said.read()) or 'it said nothing'}"


@contextmanager
def _helpers(store: Store, cell_ids: Sequence[str], count: int) -> Iterator[list[_Helper]]:
    """So many more processes for these cells; those that are still there at the end of the block are ended."""
    line, quiet = command(store.folder, "--die-with-parent", *cell_ids), subprocess.DEVNULL
    running: list[_Helper] = []
    with ExitStack() as files:
        try:
            for _ in range(count):
                said = files.enter_context(tempfile.TemporaryFile("w+"))
                running.append(_Helper(subprocess.Popen(line, stdin=quiet, stdout=quiet, stderr=said), said))
            yield running
        finally:
            for helper in running:
                helper.process.terminate()
            for helper in running:
                helper.process.wait()
