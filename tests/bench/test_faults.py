"""Kills at any moment: no half record, no lost result, no orphan, and the same rows in the end.

ATTNBENCH_KILLS=50 kills fifty times; once by default, for a whole sweep is started anew each time.
ATTNBENCH_NIGHT=300 runs a sweep of 300 cells under kills; some ten minutes, so not by default.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from bench.compose import Composer, hydra_context
from bench.plan import plan_cells, sweep_cells

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("ATTNBENCH_KILLS", "1"))
NIGHT = int(os.environ.get("ATTNBENCH_NIGHT", "0"))
SWEEP = ["sweep=smoke", "task=none", "mode=forward", "measure.budget_s=0.05"]
#: What is killed by default; many kills need a sweep that lasts.
PART = ["seq_len=64"] if KILLS == 1 else []


def start(tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "bench/run.py", *SWEEP, f"results_dir={tmp_path}", "run=night", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def planned() -> set[str]:
    line = [*SWEEP, *PART]
    with hydra_context():
        composer = Composer()
        cells = sweep_cells(composer.compose(line).sweep, line, composer)
        return {item.cell.cell_id for item in plan_cells(cells)}


def records(tmp_path: Path) -> dict[str, str]:
    """cell id -> text of its record; every file there must be one."""
    found = {path.stem: path.read_text() for path in (tmp_path / "night" / "cells").glob("*.json")}
    assert all(json.loads(text)["cell_id"] == cell_id for cell_id, text in found.items())
    return found


def kill(running: subprocess.Popen[str], chance: random.Random) -> str:
    """Kill the sweep, a process of a cell, or both; which."""
    family = psutil.Process(running.pid).children(recursive=True)
    victim = chance.choice(["parent", "child", "both"])
    for process in family if victim in ("child", "both") else []:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    if victim in ("parent", "both"):
        running.kill()
    running.wait(300)
    assert not psutil.wait_procs(family, timeout=20)[1], f"a process outlived the sweep ({victim} killed)"
    return victim


@pytest.mark.long
@pytest.mark.timeout(300 + 120 * KILLS)
def test_kills_at_random_lose_nothing(tmp_path: Path) -> None:
    chance, kept = random.Random(7), {}
    for _ in range(KILLS):
        running = start(tmp_path, *PART)
        time.sleep(chance.uniform(2, 9))
        if running.poll() is None:
            kill(running, chance)
        running.stdout.close()  # type: ignore[union-attr]
        now = records(tmp_path) if (tmp_path / "night" / "cells").exists() else {}
        assert {cell_id: now.get(cell_id) for cell_id in kept} == kept  # what was finished stays as it was
        kept = now
    said, _ = start(tmp_path, *PART, "rerun=failed").communicate(timeout=600)
    last = records(tmp_path)
    assert set(last) == planned(), said
    assert {json.loads(text)["status"] for text in last.values()} <= {"ok", "unsupported"}, said
    folder = tmp_path / "night"
    assert list((folder / "claims").iterdir()) == []
    left = [path.name for path in (folder / "cells").iterdir() if path.suffix != ".json"]
    assert left == [] or all(name.startswith(".") for name in left)  # a write that was cut short is no record


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_sweeps_at_once_share_the_cells(tmp_path: Path) -> None:
    both = [start(tmp_path, "method=linear") for _ in range(2)]
    said = [process.communicate(timeout=500)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    ran = [0 if "no cell run" in text else int(text.rsplit(" cells run", 1)[0].split()[-1]) for text in said]
    assert sum(ran) == len(records(tmp_path)) > 1, said


@pytest.mark.parametrize(
    ("isolation", "moment"),
    [("forkserver", "while it hangs"), ("subprocess", "while it hangs"), ("subprocess", "while it starts")],
)
def test_a_cell_dies_with_a_sweep_that_is_killed(isolation: str, moment: str, tmp_path: Path) -> None:
    target = [
        "method=custom",
        "method._target_=tests.bench.misbehaving.HangsMarked",
        f"+method.mark={tmp_path}/mark",
    ]
    how = [f"isolation={isolation}", "measure.passes=[memory]", f"results_dir={tmp_path}"]
    # its own folder for locks: whoever else measures on this machine neither keeps it waiting nor waits for it
    apart = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    line, nothing = [sys.executable, "bench/run.py", *target, "seq_len=32", *how], subprocess.DEVNULL
    running = subprocess.Popen(line, cwd=ROOT, env=apart, stdout=nothing, stderr=nothing)
    try:
        claim = tmp_path / "adhoc" / "claims"
        there = (
            (tmp_path / "mark").exists
            if moment == "while it hangs"
            else lambda: claim.exists() and any(claim.iterdir())
        )
        deadline = time.monotonic() + 100
        while not there() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert there()
        family = psutil.Process(running.pid).children(recursive=True)
    finally:
        running.kill()
        running.wait()
    assert not psutil.wait_procs(family, timeout=60)[1], "a cell outlived the sweep"
    if moment == "while it starts":
        assert not (tmp_path / "mark").exists()  # it found that nobody waits for it


BUDGETS = ("linformer method.rank=8", "performer method.features=16", "nystromformer method.landmarks=8")
#: What tells rows apart or follows from the configuration; the rest is measured, or when and where it was.
SAID = ("cell_id", "config_id", "method", "method_params", "seq_len", "mode", "seed", "status", "reason", "flops")


def long_sweep(cells: int, folder: Path, run: str) -> list[str]:
    """The command line of a sweep of so many short cells, of all five methods."""
    seeds = ",".join(map(str, range(cells // 5)))
    methods = ",".join(["sdpa", "linear", *(f"'{budget}'" for budget in BUDGETS)])
    grid = f"+sweep.grids.night={{method:[{methods}],seed:[{seeds}],seq_len:64,heads:2}}"
    return ["bench/run.py", grid, "measure.passes=[memory,flops]", f"results_dir={folder}", f"run={run}"]


def quietly(line: list[str]) -> subprocess.Popen[bytes]:
    nothing = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *line], cwd=ROOT, stdout=nothing, stderr=nothing)


def rows(folder: Path) -> set[tuple[str, ...]]:
    with (folder / "efficiency.csv").open() as handle:
        return {tuple(row[column] for column in SAID) for row in csv.DictReader(handle)}


@pytest.mark.skipif(not NIGHT, reason="takes ten minutes: ATTNBENCH_NIGHT=300 runs 300 cells under kills")
@pytest.mark.timeout(3600)
def test_a_long_sweep_under_kills_ends_with_the_rows_of_one_that_was_left_alone(tmp_path: Path) -> None:
    """Every second or so of its work the sweep, the process of a cell, or both are killed."""
    chance, kills, starts = random.Random(11), Counter[str](), 0
    line, cells = long_sweep(NIGHT, tmp_path, "night"), tmp_path / "night" / "cells"
    ended = False
    while not ended:
        running, before = quietly(line), len(list(cells.glob("*.json")))
        starts += 1
        while len(list(cells.glob("*.json"))) == before and running.poll() is None:
            time.sleep(0.02)  # it composes its plan
        while running.poll() is None:
            time.sleep(chance.uniform(0.3, 2))
            victim = chance.choice(["parent", "child", "both"])
            if running.poll() is not None:
                break
            family = psutil.Process(running.pid).children(recursive=True)
            if victim != "parent":
                with contextlib.suppress(IndexError, psutil.NoSuchProcess):  # it is done
                    family[-1].kill()  # the youngest: of a cell
            if victim != "child":
                running.kill()
                running.wait()
                assert not psutil.wait_procs(family, timeout=60)[1], "a process outlived the sweep"
            kills[victim] += 1
        ended = running.returncode >= 0
        records(tmp_path)  # none of them half
    assert sum(kills.values()) >= NIGHT // 20
    killed = Counter(json.loads(text)["status"] for text in records(tmp_path).values())
    assert quietly([*line, "rerun=failed"]).wait(1800) == 0
    assert quietly(long_sweep(NIGHT, tmp_path, "calm")).wait(1800) == 0
    calm = rows(tmp_path / "calm")
    assert len(calm) == NIGHT
    assert rows(tmp_path / "night") == calm
    assert list((tmp_path / "night" / "claims").iterdir()) == []
    print(f"{NIGHT} cells, {starts} starts, kills {dict(kills)}, at the end of the last start {dict(killed)}")
