"""Workers that share a folder: one cell, one worker; what a lost one had is free again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from bench.claims import Claims
from bench.errors import Refused
from bench.execute import Limits
from bench.plan import Planned, share
from bench.store import Store
from bench.sweep import run_plan
from bench.turn import turn
from tests.bench.conftest import make_plan


def test_one_of_many_gets_a_cell(tmp_path: Path) -> None:
    got: list[bool] = []
    ready, go = threading.Barrier(8), threading.Event()

    def work() -> None:
        claims = Claims(tmp_path)
        ready.wait()
        with claims.taken("cell") as ours:
            got.append(ours)
            go.wait(5) if ours else None
            if len(got) == 8:
                go.set()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(got) < 8:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join()
    assert got.count(True) == 1
    assert list(tmp_path.iterdir()) == []  # given up


def foreign(path: Path, age_s: float) -> None:
    """The claim of a worker on another machine, renewed so long ago."""
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": 0.0, "token": "theirs"}))
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_a_claim_that_is_renewed_holds_and_one_that_is_not_is_free(tmp_path: Path) -> None:
    claims = Claims(tmp_path, lease_s=60, beat_s=0.01)
    foreign(tmp_path / "cell", 10)
    with claims.taken("cell") as ours:
        assert not ours
    assert claims.holder("cell") == "elsewhere, process 1"
    foreign(tmp_path / "cell", 100)
    assert claims.holder("cell") is None
    with claims.taken("cell") as ours:
        assert ours
    assert list(tmp_path.iterdir()) == []


def test_whether_a_worker_elsewhere_lives_is_known_after_a_lease(tmp_path: Path) -> None:
    claims = Claims(tmp_path, lease_s=1.0, beat_s=0.1)
    assert claims.outlived("cell")  # nobody has it
    foreign(tmp_path / "cell", 0)
    started = time.monotonic()
    assert claims.outlived("cell")
    assert time.monotonic() - started > 0.5
    foreign(tmp_path / "cell", 0)
    beat = threading.Timer(0.3, lambda: os.utime(tmp_path / "cell"))
    beat.start()
    assert not claims.outlived("cell")
    beat.join()


def test_a_claim_of_a_dead_process_of_this_machine_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from bench.claims import Claims\n"
        "with Claims(Path(sys.argv[1])).taken('cell') as ours:\n    os._exit(0 if ours else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
    assert (tmp_path / "cell").exists()
    with Claims(tmp_path).taken("cell") as ours:
        assert ours


def test_a_clock_that_jumps_frees_no_claim_of_a_living_worker(tmp_path, monkeypatch) -> None:
    """Elsewhere an hour passes at once, and the worker renews at its next beat; here the time since boot stays."""
    theirs, ours = (Claims(tmp_path, lease_s=60, beat_s=0.2) for _ in range(2))
    monkeypatch.setattr("bench.claims._place", lambda: "another machine")
    with theirs.taken("cell"):
        monkeypatch.setattr("bench.claims._place", lambda: "this machine")
        real = ours._now
        monkeypatch.setattr(ours, "_now", lambda: real() + 3600)
        assert ours.holder("cell") is not None
        with ours.taken("cell") as got:
            assert not got
    with theirs.taken("cell"):
        boot = psutil.boot_time()
        monkeypatch.setattr("psutil.boot_time", lambda: boot + 3600)
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + 3600, raising=False)
        assert ours.holder("cell") is not None


def test_a_claim_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    with Claims(tmp_path, beat_s=0.02).taken("cell") as ours:
        assert ours
        os.utime(tmp_path / "cell", (0, 0))
        deadline = time.monotonic() + 5
        while (tmp_path / "cell").stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "cell").stat().st_mtime > 0


def test_a_sweep_leaves_what_another_worker_has_and_takes_what_it_lost(tmp_path: Path) -> None:
    plan = make_plan("method=sdpa", "method=linear")
    store = Store(tmp_path, "shared")
    store.open()
    store.claims.folder.mkdir()
    store.claims.beat_s = 0.01
    theirs = plan[0].cell
    foreign(store.claims.folder / theirs.cell_id, 0)
    summary = run_plan(plan, store, Limits(), "none", bar=False)
    assert summary.executed == 1
    assert summary.elsewhere == [f"{theirs.describe()}: elsewhere, process 1"]
    assert store.read(theirs.cell_id) is None
    foreign(store.claims.folder / theirs.cell_id, 10_000)
    again = run_plan(plan, store, Limits(), "none", bar=False)
    assert (again.executed, again.elsewhere) == (1, [])
    assert store.read(theirs.cell_id) is not None
    assert list(store.claims.folder.iterdir()) == []


def test_an_interrupt_while_a_claim_is_given_up_leaves_none(tmp_path: Path, monkeypatch) -> None:
    joined = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if getattr(thread, "_target", None) == store.claims._renew:
            raise KeyboardInterrupt
        joined(thread, timeout)

    store = Store(tmp_path, "run")
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    summary = run_plan(make_plan("method=sdpa"), store, Limits(), "none", bar=False)
    assert summary.interrupted
    assert [record["status"] for record in summary.records] == ["ok"]
    assert list((store.folder / "claims").iterdir()) == []


def test_shards_cover_the_plan_once() -> None:
    plan = make_plan(*(f"method=sdpa seed={seed}" for seed in range(7)))
    parts = [share(plan, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(len(part) for part in parts) == [2, 2, 3]
    assert {item.cell.cell_id for part in parts for item in part} == {item.cell.cell_id for item in plan}
    assert share(plan, None) == plan


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", ""])
def test_a_shard_that_is_none(shard: str) -> None:
    with pytest.raises(Refused, match="expected i/n"):
        share([], shard)


def test_measurements_of_one_machine_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cost, training = make_plan("method=linear", "method=linear task=mqar_mini seq_len=null")
    if cost.cell.table != "efficiency":
        cost, training = training, cost
    inside: list[str] = []

    def other(name: str, item: Planned, board: str) -> None:
        with turn(item.cell, board):
            inside.append(name)

    with turn(cost.cell, "cuda-4a"):
        for told in (("training", training, "cuda-4a"), ("another GPU", cost, "cuda-5b")):
            goes = threading.Thread(target=other, args=told)
            goes.start()
            goes.join(5)
        assert inside == ["training", "another GPU"]
        waits = threading.Thread(target=other, args=("the same GPU", cost, "cuda-4a"))
        waits.start()
        waits.join(0.5)
        assert inside == ["training", "another GPU"]
    waits.join(5)
    assert inside[2:] == ["the same GPU"]


def test_who_waits_for_a_turn_gets_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside a sweep that is never without a turn for longer than it takes to ask for one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (cost,) = make_plan("method=linear")
    began, ended, turns = threading.Event(), threading.Event(), []

    def greedy() -> None:
        while not ended.is_set():
            with turn(cost.cell, "cpu"):
                began.set()
                turns.append(time.monotonic())
                time.sleep(0.3)

    sweep = threading.Thread(target=greedy)
    sweep.start()
    try:
        began.wait(5)
        for _ in range(3):
            asked = time.monotonic()
            with turn(cost.cell, "cpu"):
                meanwhile = [begun for begun in turns if begun > asked]
            assert len(meanwhile) <= 1  # it may have been asking already
    finally:
        ended.set()
        sweep.join(5)
