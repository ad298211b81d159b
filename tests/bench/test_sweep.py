"""Sweeps: planned whole, resumed, pruned, interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from bench.compose import Composer, hydra_context
from bench.errors import Refused
from bench.execute import Limits, Machine
from bench.plan import expand, plan_cells, sweep_cells
from bench.resolve import cell_from_config
from bench.store import Store
from bench.sweep import must_run, run_plan
from tests.bench.conftest import FAST, make_plan, misbehaving

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(timeout_s=60, memory_mib=1500)
PRESETS = sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml") if path.stem != "none")


def quiet(line: str) -> None:
    pass


def sweep(plan, store, rerun="none", limits=LIMITS):
    return run_plan(plan, store, limits, rerun, say=quiet, bar=False)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_plans(preset):
    with hydra_context():
        composer = Composer()
        cells = sweep_cells(composer.compose([f"sweep={preset}"]).sweep, [f"sweep={preset}"], composer)
        plan = plan_cells(cells)
    assert len(plan) == len({item.cell.cell_id for item in plan}) > 1
    assert [item.facts.work for item in plan] == sorted(item.facts.work for item in plan)


def test_each_device_of_a_sweep_has_an_environment_of_its_own(tmp_path, monkeypatch):
    looked = []

    def look(cell, limits):
        looked.append(cell.hardware.device)
        return Machine({"device": cell.hardware.device}, board=cell.hardware.device)

    monkeypatch.setattr("bench.sweep.look", look)
    lines = [
        f"method=sdpa measure.passes=[latency] seq_len={n} hardware={h}" for n in (16, 32) for h in ("cpu", "cuda")
    ]
    store = Store(tmp_path, "x")
    records = sweep(make_plan(*lines), store).records
    assert sorted(looked) == ["cpu", "cuda"]
    known = store.read_environments()
    assert {known[record["env_id"]]["device"] == record["cell"]["hardware"]["device"] for record in records} == {
        True
    }
    assert len(known) == 2


def test_what_the_user_sets_restricts_the_grids():
    axes = {"method": ["full", "sdpa"], "seq_len": [1, 2], "mode": "train"}
    assert len(expand(axes, [])) == 4
    assert expand(axes, ["method=sdpa"]) == [["method=sdpa", f"seq_len={n}", "mode=train"] for n in (1, 2)]
    assert expand(axes, ["method=performer"]) == []
    assert {tuple(item) for item in expand(axes, ["seq_len=7", "seed=3"])} == {
        ("method=full", "seq_len=7", "mode=train", "seed=3"),
        ("method=sdpa", "seq_len=7", "mode=train", "seed=3"),
    }
    carried = {"method": ["sdpa", "longformer method.window=8", "longformer method.window=16"]}
    assert expand(carried, ["method=longformer"]) == [["method=longformer", f"method.window={w}"] for w in (8, 16)]


def test_an_empty_or_broken_sweep_is_refused():
    with hydra_context():
        with pytest.raises(Refused, match="no cell is left"):
            sweep_cells(
                OmegaConf.create({"name": "x", "grids": {"a": {"method": "sdpa"}}}), ["method=full"], Composer()
            )
        with pytest.raises(Refused, match="expected a mapping of axis to values"):
            sweep_cells(OmegaConf.create({"name": "x", "grids": {"a": [1]}}), [], Composer())
        grids = {"a": {"method": "longformer", "method.windw": [2, 4]}}
        with pytest.raises(Refused, match="no key 'windw'"):
            sweep_cells(OmegaConf.create({"name": "x", "grids": grids}), [], Composer())


def test_the_second_run_executes_nothing(tmp_path):
    plan = make_plan("method=sdpa", "method=full", "method=linformer method.rank=4 causal=true")
    store = Store(tmp_path, "twice")
    first = sweep(plan, store)
    assert first.executed == 3
    assert first.counts() == "ok 2, unsupported 1"
    before = {path: path.stat().st_mtime_ns for path in store.cells.iterdir()}
    second = sweep(plan, store)
    assert second.executed == 0
    assert {path: path.stat().st_mtime_ns for path in store.cells.iterdir()} == before
    assert sweep(plan, store, rerun="failed").executed == 0
    assert sweep(plan[:1], store, rerun="all").executed == 1


def test_rerun_policies():
    cell = make_plan("method=sdpa")[0].cell
    from bench.fingerprint import fingerprint

    ok = {"status": "ok", "code_fingerprint": fingerprint(cell)}
    oom = {"status": "oom", "code_fingerprint": fingerprint(cell)}
    stale = {"status": "ok", "code_fingerprint": "older"}
    assert [must_run(None, cell, policy) for policy in ("none", "failed", "stale", "all")] == [True] * 4
    assert [must_run(ok, cell, policy) for policy in ("none", "failed", "stale", "all")] == [
        False,
        False,
        False,
        True,
    ]
    assert [must_run(oom, cell, policy) for policy in ("none", "failed", "stale", "all")] == [
        False,
        True,
        False,
        True,
    ]
    assert [must_run(stale, cell, policy) for policy in ("none", "failed", "stale", "all")] == [
        False,
        False,
        True,
        True,
    ]


def test_longer_cells_than_one_that_ran_out_are_skipped(tmp_path):
    lengths = (32, 64, 128, 256)
    plan = [misbehaving("EatsFromLength", f"seq_len={n}", "measure.passes=[memory]")[0] for n in lengths]
    plan = plan_cells([item.cell for item in plan])
    store, limits = Store(tmp_path, "prune"), Limits(timeout_s=60, memory_mib=600)
    summary = sweep(plan, store, limits=limits)
    found = {record["cell"]["seq_len"]: (record["status"], record["reason"]) for record in summary.records}
    assert [found[n][0] for n in lengths] == ["ok", "oom", "skipped", "skipped"]
    assert found[256][1].startswith("oom at seq_len 64 already")
    # a resumed sweep comes to the same rows: what ran out before the interruption still counts
    (store.cells / f"{plan[-1].cell.cell_id}.json").unlink()
    assert [record["status"] for record in sweep(plan, store, limits=limits).records][-1] == "skipped"


def test_ctrl_c_keeps_what_is_done(tmp_path):
    import threading

    plan = [*make_plan("method=sdpa"), *misbehaving("Hangs")]
    store = Store(tmp_path, "interrupted")

    def press() -> None:
        deadline = time.monotonic() + 60
        while not list(store.cells.glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    summary = sweep(plan, store)
    assert summary.interrupted
    assert [record["cell"]["method"]["name"] for record in summary.records] == ["sdpa"]
    assert (tmp_path / "interrupted" / "efficiency.csv").exists()


@pytest.mark.timeout(240)
def test_a_scheduler_s_sigterm_keeps_what_is_done_and_ends_soon(tmp_path):
    command = [sys.executable, "bench/run.py", "sweep=smoke", "task=none", f"results_dir={tmp_path}", "run=ended"]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    cells = tmp_path / "ended" / "cells"
    deadline = time.monotonic() + 120
    while not (cells.exists() and list(cells.glob("*.json"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    family = psutil.Process(running.pid).children(recursive=True)
    running.terminate()
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "run the same command again" in said
    assert not psutil.wait_procs(family, timeout=10)[1], "a cell outlived the sweep"
    assert (tmp_path / "ended" / "efficiency.csv").exists()
    assert list((tmp_path / "ended" / "claims").iterdir()) == []


@pytest.mark.long
@pytest.mark.timeout(600)  # a whole sweep, on a machine that may be busy
def test_a_sweep_killed_half_way_resumes_to_the_same_rows(tmp_path):
    what = ["sweep=smoke", "task=none", "mode=forward", "seq_len=64"]
    command = [sys.executable, "bench/run.py", *what, f"results_dir={tmp_path}"]
    half = subprocess.Popen(
        [*command, "run=killed"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    cells = tmp_path / "killed" / "cells"
    deadline = time.monotonic() + 240
    while (len(list(cells.glob("*.json"))) if cells.exists() else 0) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    family = psutil.Process(half.pid).children(recursive=True)
    half.kill()
    half.wait()
    assert not psutil.wait_procs(family, timeout=10)[1], "the cell outlived the sweep"
    done = {path.name for path in cells.glob("*.json")}
    with hydra_context():
        composer = Composer()
        planned = {cell.cell_id for cell in sweep_cells(composer.compose(what).sweep, what, composer)}
    assert 3 <= len(done) < len(planned)
    resumed = subprocess.run([*command, "run=killed"], cwd=ROOT, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{len(done)} are done already" in resumed.stderr + resumed.stdout
    assert {path.stem for path in cells.glob("*.json")} == planned


def test_cells_of_a_smoke_line_compose_like_hydra():
    with hydra_context():
        cell = cell_from_config(Composer().compose([*FAST, "method=longformer", "method.window=16"]))
    assert cell.method.params.items() >= {"window": 16, "global_tokens": 1}.items()
