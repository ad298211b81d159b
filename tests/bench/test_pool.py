"""Cells side by side: how many, who runs them and where, that costs wait for trainings and no helper is left."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bench import device, pool
from bench.execute import Limits
from bench.pool import Team, run_in_teams, teams_of
from bench.store import Store
from tests.bench.conftest import MISBEHAVING, make_plan

TRAINING = "task=copying seq_len=null hardware.threads=1 task.train.steps=2 measure.passes=[train]"
COST = "method=linear seq_len=64 hardware.threads=1 measure.budget_s=0 measure.passes=[latency]"


def plan_of(trainings: int, costs: int = 0, more: str = ""):
    lines = [f"{TRAINING} seed={seed} {more}" for seed in range(trainings)]
    return make_plan(*lines, *(f"{COST} seed={seed} {more}" for seed in range(costs)))


def pair(plan, size: int = 2) -> list[Team]:
    """The plan's trainings by so many workers."""
    return teams_of(plan, cores=1, gpus=[], workers=size)


@pytest.mark.parametrize(
    ("plan", "cores", "expected"),
    [
        (plan_of(3), 2, 2),
        (plan_of(3), 8, 3),
        (plan_of(3, more="hardware.threads=2"), 2, 1),
        (plan_of(3, more="hardware.threads=2"), 5, 2),
        (plan_of(3, more="hardware.threads=4"), 2, 1),
        (plan_of(2, more="hardware.device=cuda"), 8, 1),
        (plan_of(2, more="hardware.device=mps"), 8, 1),
        (plan_of(0, costs=2), 8, 1),
    ],
)
def test_as_many_trainings_as_cores_hold(plan, cores, expected):
    found = [1 + len(team.helpers) for team in teams_of(plan, cores, gpus=[])]
    assert found == ([expected] if expected > 1 else [])


@pytest.mark.parametrize(
    ("gpus", "workers", "helped"),
    [
        (["0", "1", "2"], None, ["1", "2"]),
        (["GPU-4a", "GPU-5b", "GPU-6c", "a", "b", "c"], None, ["GPU-5b", "GPU-6c", "a", "b"]),  # for 5 cells
        (["5", "3", "1"], 2, ["3"]),
        (["0", "1"], 1, []),
        (["7"], None, []),
        ([], None, []),
    ],
)
def test_a_cell_at_a_time_on_each_gpu(gpus, workers, helped):
    anywhere = [*plan_of(2, more="hardware.device=cuda"), *plan_of(0, 3, more="hardware.device=cuda")]
    elsewhere = [*plan_of(0, 2), *(plan_of(1, more=f"hardware.device={name}")[0] for name in ("cuda:1", "mps"))]
    found = teams_of([*elsewhere, *anywhere], 8, gpus, workers)
    names = [[place["CUDA_VISIBLE_DEVICES"] for place in team.helpers] for team in found]
    assert names == ([helped] if helped else [])
    for team in found:
        assert {item.cell.cell_id for item in team.cells} == {item.cell.cell_id for item in anywhere}


def test_gpus_and_cores_have_a_team_each():
    plan = [*plan_of(3), *plan_of(0, 2, more="hardware.device=cuda")]
    on_gpus, on_cores = teams_of(plan, 4, ["0", "1", "2", "3"])
    assert on_gpus.helpers == [{"CUDA_VISIBLE_DEVICES": "1"}]
    assert on_cores.helpers == [{}, {}]
    assert {item.cell.hardware.device for item in on_gpus.cells} == {"cuda"}
    assert {item.cell.hardware.device for item in on_cores.cells} == {"cpu"}


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 3, ["0", "1", "2"]),
        ("2, 0", 2, ["2", "0"]),
        ("GPU-4a,MIG-5b", 2, ["GPU-4a", "MIG-5b"]),
        ("1,-1,0", 1, ["1"]),  # CUDA stops at the first that is none
        ("", 0, []),
        (None, 0, []),
    ],
)
def test_gpus_as_cuda_names_them(visible, count, expected, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert device.gpus() == expected


def test_the_very_gpu_whatever_its_number(monkeypatch: pytest.MonkeyPatch):
    boards = {"cuda": "4a", "cuda:1": "5b"}
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda name: SimpleNamespace(uuid=boards[name]))
    found = [device.board(name) for name in ("cuda", "cuda:1", "cpu", "mps")]
    assert found == ["cuda-4a", "cuda-5b", "cpu", "mps"]


def test_each_worker_of_a_team_runs_cells_in_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trainings on a CPU stand for cells on GPUs; the method writes down which GPU it may see."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,3")
    monkeypatch.setenv("SEEN_FOLDER", str(tmp_path))
    method = f"method=custom method.name=sees method._target_={MISBEHAVING}.SeesGpus"
    plan = make_plan(*(f"{TRAINING} {method} seed={seed}" for seed in range(2)))
    team = Team(plan, [{"CUDA_VISIBLE_DEVICES": "3"}])
    limits = Limits(isolation="subprocess")  # a fork server may have started before, with other variables
    summary = run_in_teams(plan, Store(tmp_path, "x"), limits, "none", [team], bar=False)
    assert [record["status"] for record in summary.records] == ["ok"] * 2
    assert summary.complaints == []
    assert {path.name.split()[0] for path in tmp_path.glob("* seen")} == {"7,3", "3"}


def test_the_whole_plan_is_run_costs_last(tmp_path: Path):
    plan = plan_of(3, costs=1)
    summary = run_in_teams(plan, Store(tmp_path, "x"), Limits(), "none", pair(plan), bar=False)
    assert [record["status"] for record in summary.records] == ["ok"] * 4
    assert (summary.executed, summary.planned) == (4, 4)
    ends = {record["cell"]["measure"]["passes"][0]: [] for record in summary.records}
    for record in summary.records:
        ends[record["cell"]["measure"]["passes"][0]].append(record["started_at"])
    assert min(ends["latency"]) >= max(ends["train"])
    again = run_in_teams(plan, Store(tmp_path, "x"), Limits(), "none", pair(plan), bar=False)
    assert (again.executed, len(again.records)) == (0, 4)
    third = run_in_teams(plan, Store(tmp_path, "x"), Limits(), "all", pair(plan), bar=False)
    assert third.executed == 4


def test_a_helper_runs_trainings_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan, store, done = plan_of(2, costs=1), Store(tmp_path, "x"), []

    def idle(items, *_, **__):
        """Leave all to the helper: the trainings at the first call, then look at what is there."""
        records = [store.read(item.cell.cell_id) for item in items]
        done.append(Counter(record["status"] if record else "to do" for record in records))
        return pool.Summary()

    monkeypatch.setattr(pool, "run_plan", idle)
    summary = run_in_teams(plan, store, Limits(), "none", pair(plan), bar=False)
    assert done == [{"to do": 2}, {"ok": 2, "to do": 1}]
    assert summary.complaints == []


def test_a_helper_that_could_not_run_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = "import sys; print('no such thing', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(pool, "command", lambda *_: [sys.executable, "-c", code])
    plan = plan_of(2)
    summary = run_in_teams(plan, Store(tmp_path, "x"), Limits(), "none", pair(plan), bar=False)
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
    summary = run_in_teams(plan, store, Limits(), "none", pair(plan, 3), bar=False)
    assert summary.interrupted
    assert summary.records == []
    assert (store.folder / "efficiency.csv").exists()
    assert len(seen) == 2
    for arguments in seen:
        assert arguments[:2] == [str(store.folder), "--die-with-parent"]
        assert set(arguments[2:]) == waiting
    assert not any(psutil.pid_exists(int(path.stem)) for path in helpers.glob("*.called"))


def test_one_worker_needs_no_helper(helpers: Path):
    plan = plan_of(2)
    assert pair(plan, 1) == []
    summary = run_in_teams(plan, Store(helpers, "x"), Limits(), "none", [], bar=False)
    assert summary.executed == 2
    assert list(helpers.glob("*.called")) == []
