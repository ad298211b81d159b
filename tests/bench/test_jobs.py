"""Cells as jobs: the same rows as a plain run, whoever runs them; a row for what was lost."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cluster, one
from bench.errors import StoreError
from bench.execute import Limits
from bench.jobs import finish, needs, publish, run_planned
from bench.store import Store
from tests.bench.conftest import FAST, make_plan

LINES = ("method=sdpa", "method=linear", "method=linformer method.rank=8 causal=true")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, "night")


def test_published_cells_run_one_by_one_and_lost_ones_get_a_row(store: Store) -> None:
    plan = make_plan(*LINES)
    pending = publish(store, plan, Limits(timeout_s=99), "none")
    assert pending == plan
    ids = [item.cell.cell_id for item in plan]
    assert store.planned_ids() == sorted(ids)
    assert run_planned(store, ids[:2]) == []
    assert not (store.folder / "efficiency.csv").exists()  # tables come at the end
    assert "3 cells planned, 1 of them lost" in finish(store)
    statuses = [store.read(cell_id)["status"] for cell_id in ids]  # type: ignore[index]
    assert sorted(statuses) == ["error", "ok", "unsupported"] or statuses.count("error") == 1
    lost = store.read(ids[2])
    assert lost is not None
    assert "ended without a record" in lost["reason"]
    assert len((store.folder / "efficiency.csv").read_text().splitlines()) == 4
    assert publish(store, plan, Limits(), "none") == []
    assert [item.cell.cell_id for item in publish(store, plan, Limits(), "failed")] == [ids[2]]
    assert store.read(ids[2]) is None  # runs again


def test_what_a_worker_of_another_machine_lost_just_now_is_run_or_gets_a_row(store: Store) -> None:
    plan = make_plan("method=sdpa", "method=linear")
    publish(store, plan, Limits(), "none")
    store.claims.folder.mkdir()
    store.claims.lease_s, store.claims.beat_s = 1.0, 0.1
    again, last = (item.cell.cell_id for item in plan)
    for cell_id in (again, last):
        (store.claims.folder / cell_id).write_text(
            '{"host": "elsewhere", "pid": 1, "born": 0.0, "token": "theirs"}'
        )
    assert run_planned(store, [again]) == []
    assert store.read(again)["status"] == "ok"  # type: ignore[index]
    (store.claims.folder / last).touch()
    assert "1 of them lost" in finish(store)
    assert store.read(last)["status"] == "error"  # type: ignore[index]
    assert list(store.claims.folder.iterdir()) == []


def test_an_interrupted_job_says_so_and_runs_no_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan("method=sdpa", "method=linear")
    publish(store, plan, Limits(), "none")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.sweep.run_cell", interrupt)
    assert one.main([str(store.folder), *(item.cell.cell_id for item in plan)]) == 130
    assert store.read_all() == ([], [])
    assert list(store.claims.folder.iterdir()) == []


def test_ids_that_were_not_planned_are_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    publish(store, make_plan("method=sdpa"), Limits(), "none")
    with pytest.raises(StoreError, match="not in its plan"):
        run_planned(store, ["0123456789abcdef"])
    assert one.main([str(store.folder), "0123456789abcdef"]) != 0
    assert "not in its plan" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        one.main([str(store.folder)])


def test_needs_come_from_the_cell_and_the_limits() -> None:
    small, large = make_plan("method=full seq_len=64", "method=full seq_len=16384")
    assert needs(small, Limits()).memory_mib < needs(large, Limits()).memory_mib
    assert needs(small, Limits(memory_mib=30_000)).memory_mib == 32_768
    assert needs(small, Limits(timeout_s=1000)).time_s == 1120
    assert needs(small, Limits()) == needs(make_plan("method=sdpa seq_len=64")[0], Limits())


SBATCH = """#!/usr/bin/env python3
import os, re, subprocess, sys
script = sys.argv[-1]
text = open(script).read()
open(os.environ["CALLS"], "a").write(" ".join(sys.argv[1:]) + "\\n")
found = re.search(r"--array=0-(\\d+)", text)
for index in range(int(found[1]) + 1 if found else 1):
    log = open(os.environ["CALLS"] + ".log", "a")
    subprocess.run(["bash", script], env=os.environ | {"SLURM_ARRAY_TASK_ID": str(index)}, stdout=log, stderr=log)
print(f"{100 + len(open(os.environ['CALLS']).readlines())};cluster")
"""


def fake_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An sbatch that runs every job of an array at once, here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text(SBATCH.replace("/usr/bin/env python3", sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


@pytest.mark.timeout(240)
def test_slurm_scripts_run_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = fake_sbatch(tmp_path, monkeypatch)
    monkeypatch.chdir(ROOT)
    line = [*FAST, f"results_dir={tmp_path}", "run=night", "method=linear"]
    assert cluster.main(["slurm", *line, "--sbatch=--partition=fast", "--at-most", "4", "--dry"]) == 0
    assert not calls.exists()
    script = (tmp_path / "night" / "jobs" / "array-0.sh").read_text()
    for option in ("--array=0-0%4", "--requeue", "--partition=fast", "--cpus-per-task=", "--mem=", "--time="):
        assert f"#SBATCH {option}" in script
    checked = subprocess.run(["bash", "-n", str(tmp_path / "night" / "jobs" / "array-0.sh")], check=False)
    assert checked.returncode == 0

    assert cluster.main(["slurm", *line]) == 0
    submitted = calls.read_text().splitlines()
    assert len(submitted) == 2
    assert "--dependency=afterany:101" in submitted[1]
    assert "submitted as 101, 102" in capsys.readouterr().out
    store = Store(tmp_path, "night")
    records, complaints = store.read_all()
    assert [record["status"] for record in records] == ["ok"], (tmp_path / "calls.log").read_text()
    assert complaints == []
    assert (store.folder / "efficiency.csv").exists()
    assert list(store.claims.folder.iterdir()) == []


def test_without_slurm_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster.main(["slurm", *FAST, f"results_dir={tmp_path}", "run=x", "method=linear"]) != 0
    assert "sbatch is not here" in capsys.readouterr().err


def test_bad_command_lines_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cluster.main(["slurm", "method=nonsense", f"results_dir={tmp_path}"]) == 2
    assert "nonsense" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cluster.main(["slurm", "--nonsense"])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scheduler", ["ray", "dask"])
def test_clusters_run_the_plan(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[scheduler], reason="an extra, not installed")
    monkeypatch.chdir(ROOT)
    assert cluster.main([scheduler, *FAST, f"results_dir={tmp_path}", "run=night", "method=linear"]) == 0
    records, _ = Store(tmp_path, "night").read_all()
    assert [record["status"] for record in records] == ["ok"]


@pytest.mark.parametrize("scheduler", ["ray", "dask"])
def test_a_missing_extra_is_one_line(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, {"ray": "ray", "dask": "distributed"}[scheduler], None)
    assert cluster.main([scheduler, *FAST, f"results_dir={tmp_path}", "run=night", "method=linear"]) != 0
    assert "pip install" in capsys.readouterr().err
