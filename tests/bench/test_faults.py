"""Kills at any moment: no half record, no lost result, no orphan, and the same rows in the end.

ATTNBENCH_KILLS=50 kills fifty times; once by default, for a whole sweep is started anew each time.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.compose import Composer, hydra_context
from bench.plan import plan_cells, sweep_cells

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("ATTNBENCH_KILLS", "1"))
SWEEP = ["sweep=smoke", "task=none", "mode=forward", "measure.budget_s=0.05"]


def start(tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "bench/run.py", *SWEEP, f"results_dir={tmp_path}", "run=night", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def planned() -> set[str]:
    with hydra_context():
        composer = Composer()
        cells = sweep_cells(composer.compose(SWEEP).sweep, SWEEP, composer)
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


@pytest.mark.timeout(300 + 120 * KILLS)
def test_kills_at_random_lose_nothing(tmp_path: Path) -> None:
    chance, kept = random.Random(7), {}
    for _ in range(KILLS):
        running = start(tmp_path)
        time.sleep(chance.uniform(2, 9))
        if running.poll() is None:
            kill(running, chance)
        running.stdout.close()  # type: ignore[union-attr]
        now = records(tmp_path) if (tmp_path / "night" / "cells").exists() else {}
        assert {cell_id: now.get(cell_id) for cell_id in kept} == kept  # what was finished stays as it was
        kept = now
    said, _ = start(tmp_path, "rerun=failed").communicate(timeout=600)
    last = records(tmp_path)
    assert set(last) == planned(), said
    assert {json.loads(text)["status"] for text in last.values()} <= {"ok", "unsupported"}, said
    folder = tmp_path / "night"
    assert list((folder / "claims").iterdir()) == []
    left = [path.name for path in (folder / "cells").iterdir() if path.suffix != ".json"]
    assert left == [] or all(name.startswith(".") for name in left)  # a write that was cut short is no record


@pytest.mark.timeout(600)
def test_two_sweeps_at_once_share_the_cells(tmp_path: Path) -> None:
    both = [start(tmp_path, "method=linear") for _ in range(2)]
    said = [process.communicate(timeout=500)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    ran = [0 if "no cell run" in text else int(text.rsplit(" cells run", 1)[0].split()[-1]) for text in said]
    assert sum(ran) == len(records(tmp_path)) > 1, said
