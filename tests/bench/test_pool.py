"""Trainings side by side: how many, who runs them, that costs wait for them and no helper is left."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from bench import pool
from bench.execute import Limits
from bench.pool import run_side_by_side, that_fit
from bench.store import Store
from tests.bench.conftest import make_plan

TRAINING = "task=copying seq_len=null hardware.threads=1 task.train.steps=2 measure.passes=[train]"
COST = "method=linear seq_len=64 hardware.threads=1 measure.budget_s=0 measure.passes=[latency]"


def plan_of(trainings: int, costs: int = 0, more: str = ""):
    lines = [f"{TRAINING} seed={seed} {more}" for seed in range(trainings)]
    return make_plan(*lines, *(f"{COST} seed={seed}" for seed in range(costs)))


@pytest.mark.parametrize(
    ("plan", "cores", "expected"),
    [
        (plan_of(3), 2, 2),
        (plan_of(3), 8, 3),
        (plan_of(3, more="hardware.threads=2"), 2, 1),
        (plan_of(3, more="hardware.threads=2"), 5, 2),
        (plan_of(3, more="hardware.threads=4"), 2, 1),
        (plan_of(2, more="hardware.device=cuda"), 8, 1),
        (plan_of(0, costs=2), 8, 1),
    ],
)
def test_as_many_trainings_as_cores_hold(plan, cores, expected):
    assert that_fit(plan, cores) == expected


def test_the_whole_plan_is_run_costs_last(tmp_path: Path):
    plan = plan_of(3, costs=1)
    summary = run_side_by_side(plan, Store(tmp_path, "x"), Limits(), "none", 2, bar=False)
    assert [record["status"] for record in summary.records] == ["ok"] * 4
    assert (summary.executed, summary.planned) == (4, 4)
    ends = {record["cell"]["measure"]["passes"][0]: [] for record in summary.records}
    for record in summary.records:
        ends[record["cell"]["measure"]["passes"][0]].append(record["started_at"])
    assert min(ends["latency"]) >= max(ends["train"])
    again = run_side_by_side(plan, Store(tmp_path, "x"), Limits(), "none", 2, bar=False)
    assert (again.executed, len(again.records)) == (0, 4)
    third = run_side_by_side(plan, Store(tmp_path, "x"), Limits(), "all", 2, bar=False)
    assert third.executed == 4


def test_a_helper_runs_trainings_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan, store, done = plan_of(2, costs=1), Store(tmp_path, "x"), []

    def idle(items, *_, **__):
        """Leave all to the helper: the trainings at the first call, then look at what is there."""
        records = [store.read(item.cell.cell_id) for item in items]
        done.append(Counter(record["status"] if record else "to do" for record in records))
        return pool.Summary()

    monkeypatch.setattr(pool, "run_plan", idle)
    summary = run_side_by_side(plan, store, Limits(), "none", 2, bar=False)
    assert done == [{"to do": 2}, {"ok": 2, "to do": 1}]
    assert summary.complaints == []


def test_a_helper_that_could_not_run_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = "import sys; print('no such thing', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(pool, "command", lambda *_: [sys.executable, "-c", code])
    summary = run_side_by_side(plan_of(2), Store(tmp_path, "x"), Limits(), "none", 2, bar=False)
    assert [record["status"] for record in summary.records] == ["ok"] * 2
    assert summary.complaints == ["a helper ended with exit code 2: no such thing"]


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for helpers: each writes what it was called with to a file of its own, and stays."""
    code = (
        "import json, os, sys, time;"
        f"open(rf'{tmp_path}/' + str(os.getpid()) + '.called', 'w').write(json.dumps(sys.argv[1:]));"
        "time.sleep(600)"
    )
    monkeypatch.setattr(pool, "command", lambda *arguments: [sys.executable, "-c", code, *map(str, arguments)])
    return tmp_path


def called(folder: Path, count: int) -> list[list[str]]:
    deadline = time.monotonic() + 60
    while len(found := list(folder.glob("*.called"))) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)  # each is written at once, and soon after it is there
    return [json.loads(path.read_text()) for path in found]


def test_helpers_get_the_trainings_that_are_left_and_end_with_an_interruption(
    helpers: Path, monkeypatch: pytest.MonkeyPatch
):
    plan, store = plan_of(4, costs=1), Store(helpers, "x")
    waiting = {item.cell.cell_id for item in plan if item.cell.table == "accuracy"}
    seen: list[list[str]] = []

    def interrupted(items, *_, **__):
        seen.extend(called(helpers, 2))
        assert {item.cell.cell_id for item in items} == waiting
        return pool.Summary(interrupted=True)

    monkeypatch.setattr(pool, "run_plan", interrupted)
    summary = run_side_by_side(plan, store, Limits(), "none", 3, bar=False)
    assert summary.interrupted
    assert summary.records == []
    assert len(seen) == 2
    for arguments in seen:
        assert arguments[:2] == [str(store.folder), "--die-with-parent"]
        assert set(arguments[2:]) == waiting
    assert not any(psutil.pid_exists(int(path.stem)) for path in helpers.glob("*.called"))


def test_one_worker_needs_no_helper(helpers: Path):
    summary = run_side_by_side(plan_of(2), Store(helpers, "x"), Limits(), "none", 1, bar=False)
    assert summary.executed == 2
    assert list(helpers.glob("*.called")) == []
