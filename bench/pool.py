"""Cells side by side on one machine: trainings, as many as its cores hold; one cell on each of several GPUs.

A small training gains little from a second thread, and so would leave cores idle. What is left, costs on a CPU
above all, comes after them, one at a time. Helpers are processes that run the same cells by `bench/one.py`:
whoever is free takes the next, as workers of several machines do.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

from bench.collect import collect
from bench.execute import Limits
from bench.jobs import publish
from bench.plan import Planned
from bench.schedulers.command import command, last_line
from bench.store import Store
from bench.sweep import Summary, run_plan


@dataclass(frozen=True)
class Team:
    """Cells that run at a time. helpers: the variables of each process that runs them beside this one."""

    cells: Sequence[Planned]
    helpers: Sequence[Mapping[str, str]]


def teams_of(plan: Sequence[Planned], cores: int, gpus: Sequence[str], workers: int | None = None) -> list[Team]:
    """The teams that a plan is worth. gpus: see `bench.device`; workers: of each team, by default as many as fit.

    Only cells on `cuda` may go to any GPU. Those on `cuda:1` or another device are in no team.
    """
    on_gpus = [item for item in plan if item.cell.hardware.device == "cuda"]
    trainings = [item for item in plan if item.cell.hardware.device == "cpu" and item.cell.table == "accuracy"]
    places = [{"CUDA_VISIBLE_DEVICES": name} for name in gpus[:workers]]  # the first is what `cuda` is to us
    fit = workers or cores // max((item.cell.hardware.threads for item in trainings), default=1)
    found = [Team(on_gpus, places[1 : len(on_gpus)]), Team(trainings, [{}] * (min(fit, len(trainings)) - 1))]
    return [team for team in found if team.helpers]


def run_in_teams(
    plan: Sequence[Planned], store: Store, limits: Limits, rerun: str, teams: Sequence[Team], bar: bool
) -> Summary:
    """`run_plan` of the whole plan: what a team can share first, the rest after it."""
    if not teams:
        return run_plan(plan, store, limits, rerun, bar=bar)
    pending = publish(store, plan, limits, rerun)
    waiting = {item.cell.cell_id for item in pending}
    lost: list[str] = []
    for team in teams:
        cells = [item.cell.cell_id for item in team.cells if item.cell.cell_id in waiting]
        with _helpers(store, cells, team.helpers[: max(len(cells) - 1, 0)]) as helpers:
            summary = run_plan(team.cells, store, limits, "none", bar=bar, tables=False)
            if summary.interrupted:
                break
            lost += [complaint for helper in helpers if (complaint := helper.complaint())]
    if not summary.interrupted:  # now the rest, and what a lost helper left
        summary = run_plan(plan, store, limits, "none", bar=bar)
        summary.complaints = [*lost, *summary.complaints]
    else:
        summary.planned, summary.complaints = len(plan), collect(store)
        records = (store.read(item.cell.cell_id) for item in plan)
        summary.records = [record for record in records if record is not None]
    summary.executed = len(summary.records) - (len(plan) - len(pending))
    return summary


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
def _helpers(
    store: Store, cell_ids: Sequence[str], places: Sequence[Mapping[str, str]]
) -> Iterator[list[_Helper]]:
    """A process for these cells in each place; those that are still there at the end of the block are ended."""
    line, quiet = command(store.folder, "--die-with-parent", *cell_ids), subprocess.DEVNULL
    running: list[_Helper] = []
    with ExitStack() as files:
        try:
            for place in places:
                said = files.enter_context(tempfile.TemporaryFile("w+"))
                environment = {**os.environ, **place}
                process = subprocess.Popen(line, stdin=quiet, stdout=quiet, stderr=said, env=environment)
                running.append(_Helper(process, said))
            yield running
        finally:
            for helper in running:
                helper.process.terminate()
            for helper in running:
                helper.process.wait()
