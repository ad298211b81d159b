"""Waiting for cores: read from the system, provoked for real, and marked in the rows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.collect import CONTENDED, contended, rows_of
from bench.execute import new_record
from bench.measure.usage import Meter, add, shares, waited_s
from bench.sweep import must_run
from tests.bench.conftest import make_plan


def tasks(folder: Path, waits: list[float]) -> Path:
    for number, seconds in enumerate(waits):
        (folder / str(number)).mkdir(exist_ok=True)
        (folder / str(number) / "schedstat").write_text(f"123 {int(seconds * 1e9)} 4\n")
    return folder


def test_waiting_of_all_threads_is_added_up(tmp_path):
    meter = Meter(tasks(tmp_path, [1.0, 2.0]))
    assert waited_s(tmp_path) == 3.0
    tasks(tmp_path, [1.5, 2.25, 0.25])
    assert meter.lap()["waited_s"] == pytest.approx(1.0)
    assert meter.lap()["waited_s"] == 0.0


def test_unknown_where_the_system_does_not_say(tmp_path):
    usage = Meter(tmp_path).lap()
    assert usage["waited_s"] is None
    assert shares(usage, 2)["wait_share"] is None
    assert contended(None) is None
    assert shares({}, 2) == {"cpu_share": None, "wait_share": None}


def test_parts_add_up_and_shares_are_of_all_threads():
    part = {"wall_s": 2.0, "cpu_s": 3.0, "waited_s": 0.5}
    both = add(add({}, part), part)
    assert both == {"wall_s": 4.0, "cpu_s": 6.0, "waited_s": 1.0}
    assert shares(both, 2) == {"cpu_share": 0.75, "wait_share": 0.125}
    assert add(both, {**part, "waited_s": None})["waited_s"] is None


@pytest.mark.skipif(waited_s() is None or not hasattr(os, "sched_setaffinity"), reason="needs Linux's schedstat")
def test_two_that_share_a_core_wait_for_each_other():
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    rival = subprocess.Popen([sys.executable, "-c", code])
    own = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {core})
        time.sleep(0.3)
        meter, end = Meter(), time.perf_counter() + 0.5
        while time.perf_counter() < end:
            pass
        busy = shares(meter.lap(), 1)
    finally:
        os.sched_setaffinity(0, own)
        rival.kill()
        rival.wait()
    assert busy["wait_share"] > 2 * CONTENDED
    assert busy["cpu_share"] < 0.9
    assert contended(busy["wait_share"]) is True


def record(usage: dict[str, dict[str, float]]):
    samples = [
        {"round": r, "position": 0, "subject": s, "wall_s": 0.01, "cpu_s": 0.015, "calls": 1}
        for r in range(6)
        for s in ("method", "baseline")
    ]
    latency = {"samples": samples, "backend": "eager", "baseline_backend": "x", "tokens": 8, **usage}
    (planned,) = make_plan("method=linear hardware.threads=2")
    return {**new_record(planned, {}, "test"), "status": "ok", "results": {"latency": latency}}


def test_rows_say_when_the_machine_was_not_free_and_nothing_where_that_was_not_recorded():
    for waited, flag in ((0.2, True), (0.01, False)):
        row = next(rows_of(record({"usage": {"wall_s": 1.0, "cpu_s": 1.0, "waited_s": waited}})))[1]
        assert (row["wait_share"], row["contended"]) == (waited / 2, flag)
    before = next(rows_of(record({})))[1]  # a record of before
    assert before["cpu_share"] == pytest.approx(0.75)
    assert (before["wait_share"], before["contended"]) == (None, None)


def test_cells_that_were_measured_beside_others_can_be_measured_again():
    (planned,) = make_plan("method=linear hardware.threads=2")
    busy, free = (record({"usage": {"wall_s": 1.0, "cpu_s": 1.0, "waited_s": waited}}) for waited in (0.2, 0.01))
    assert must_run(busy, planned.cell, "contended")
    assert not must_run(free, planned.cell, "contended")
    assert not must_run(record({}), planned.cell, "contended")  # nothing says so
    assert not must_run({**busy, "status": "oom", "results": {}}, planned.cell, "contended")
    assert not must_run(busy, planned.cell, "failed")
