"""Every engine runs the smoke sweep to the cells of a plain run; what is killed there costs its own cell alone.

`make clusters`, or ATTNBENCH_CLUSTERS=slurm,ray,dask,submitit,shards (all) with pytest; skipped otherwise.
ATTNBENCH_CLUSTERS_PART="sweep.grids.cost.mode=train" takes a part of the sweep, where time is short.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench.store import Store
from tests.clusters import slurm
from tests.clusters.conftest import ENGINES, absent

ROOT = Path(__file__).parents[2]
PATIENCE_S = 3600
MISBEHAVING = "tests.bench.misbehaving"

PART = os.environ.get("ATTNBENCH_CLUSTERS_PART", "").split()

#: Statuses by cell id.
Ends = dict[str, str]


def victim(name: str, mark: Path) -> str:
    """One more grid of a sweep: a cell whose method kills something."""
    keys = f"method:custom,method.name:victim,method._target_:{MISBEHAVING}.{name},+method.mark:{mark}"
    return f"+sweep.grids.victim={{{keys},seq_len:64,heads:2}}"


def command(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # where workers find the misbehaving methods
    pipe = subprocess.PIPE
    line = [sys.executable, *arguments]
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def said(*running: subprocess.Popen[str]) -> str:
    return "\n".join(process.communicate(timeout=PATIENCE_S)[0] for process in running)


def plain(line: list[str]) -> str:
    return said(command("bench/run.py", *line))


def shards(line: list[str]) -> str:
    return said(*(command("bench/run.py", *line, f"shard={part}/2") for part in (1, 2)))


def submitit(line: list[str]) -> str:
    folder = next(item.partition("=")[2] for item in line if item.startswith("results_dir="))
    where = [f"hydra.sweep.dir={folder}/multirun", "hydra/launcher=submitit_local"]
    return said(command("bench/run.py", "--multirun", *where, *line, "rerun=none", "shard=1/3,2/3,3/3"))


def scheduled(scheduler: str) -> Callable[[list[str]], str]:
    return lambda line: said(command("bench/cluster.py", scheduler, *line))


def on_slurm(line: list[str]) -> str:
    text = scheduled("slurm")(line)
    slurm.wait_for_jobs({}, PATIENCE_S)
    return text


RUN: dict[str, Callable[[list[str]], str]] = {
    "shards": shards,
    "submitit": submitit,
    "ray": scheduled("ray"),
    "dask": scheduled("dask"),
    "slurm": on_slurm,
}


def ends(folder: Path, run: str) -> Ends:
    """How the cells of a run ended; the tables say the same as the records, and no claim is left."""
    store = Store(folder, run)
    records, complaints = store.read_all()
    assert complaints == []
    assert list(store.claims.folder.iterdir()) == []
    found = {record["cell_id"]: record["status"] for record in records}
    rows: Ends = {}
    for table in ("efficiency", "errors", "accuracy"):
        with (store.folder / f"{table}.csv").open() as handle:
            rows |= {row["cell_id"]: row["status"] for row in csv.DictReader(handle)}
    assert rows == found
    return found


def reason_of_the_victim(folder: Path, run: str) -> tuple[str, str]:
    """(status, reason) of the one cell that is not like the others."""
    records = Store(folder, run).read_all()[0]
    (found,) = [record for record in records if record["cell"]["method"]["name"] == "victim"]
    return found["status"], found["reason"]


def no_process_is_left(folder: Path) -> bool:
    """Whether nothing runs any more whose command line names the folder of the test, but for SLURM's daemons."""
    lines = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    return not [text for text in lines if str(folder) in text and ("one.py" in text or "run.py" in text)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Ends]:
    """The folder, the command line and the cells of a plain run in which nobody kills anything."""
    if all(absent(engine) for engine in ENGINES):
        pytest.skip(absent(ENGINES[0]))
    folder = tmp_path_factory.mktemp("engines")
    line = ["sweep=smoke", *PART, victim("Mortal", folder / "mark"), "measure.budget_s=0.05"]
    line.append(f"results_dir={folder}")
    text = plain([*line, "run=plain"])
    found = ends(folder, "plain")
    assert set(found.values()) == {"ok", "unsupported"}, text  # Linformer has no causal form, which mqar needs
    assert reason_of_the_victim(folder, "plain") == ("ok", "")
    (folder / "mark").touch()  # from now on it dies
    return folder, line, found


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_the_smoke_sweep_ends_like_the_plain_run_but_for_the_cell_that_is_killed(
    engine: str, undisturbed: tuple[Path, list[str], Ends]
) -> None:
    folder, line, expected = undisturbed
    text = RUN[engine]([*line, f"run={engine}"])
    found = ends(folder, engine)
    assert set(found) == set(expected), text
    changed = {cell_id for cell_id in expected if found[cell_id] != expected[cell_id]}
    assert len(changed) == 1, text
    status, reason = reason_of_the_victim(folder, engine)
    assert status == "error"
    assert "the cell's process was killed by SIGKILL" in reason
    assert no_process_is_left(folder)


#: A few cells beside the victim, so that a run takes a minute.
FEW = ["+sweep.grids.few={method:[sdpa,linear,performer],seq_len:64,heads:2}", "measure.passes=[memory]"]


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("engine", ["ray", "dask", "slurm"], indirect=True)
def test_a_job_that_is_killed_costs_its_own_cell(engine: str, tmp_path: Path) -> None:
    line = [*FEW, victim("KillsItsJob", tmp_path / "mark"), f"results_dir={tmp_path}", f"run={engine}"]
    text = RUN[engine](line)
    found = ends(tmp_path, engine)
    assert sorted(found.values()) == ["error", *["ok"] * (len(found) - 1)], text
    assert len(found) == 4
    status, reason = reason_of_the_victim(tmp_path, engine)
    assert (status, "its job ended without a record" in reason) == ("error", True), reason
    assert no_process_is_left(tmp_path)


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("engine", ["ray", "dask", "slurm"], indirect=True)
def test_the_cell_of_a_lost_worker_runs_again(engine: str, tmp_path: Path) -> None:
    """A worker of Ray or Dask is killed; a job of SLURM is put back into the queue."""
    name = "IsRequeued" if engine == "slurm" else "KillsItsWorker"
    line = [*FEW, victim(name, tmp_path / "mark"), f"results_dir={tmp_path}", f"run={engine}"]
    text = RUN[engine](line)
    assert (tmp_path / "mark").exists(), text
    found = ends(tmp_path, engine)
    assert len(found) == 4
    assert set(found.values()) == {"ok"}, text
    assert no_process_is_left(tmp_path)
