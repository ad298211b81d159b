"""Every status, provoked for real, through both ways of starting a process."""

import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from typing import Any

import psutil
import pytest

from bench import isolate
from bench.execute import Limits, look, run_cell
from tests.bench.conftest import make_plan, misbehaving

LIMITS = Limits(timeout_s=60, memory_mib=1500)
PLAIN = Limits(isolation="subprocess", timeout_s=60, memory_mib=1500)


@pytest.fixture(scope="module")
def environment():
    return look(make_plan("method=sdpa")[0].cell, LIMITS).environment


def run(planned, environment, limits=LIMITS):
    return run_cell(planned[0], limits, environment, "test", lambda message: None)


def test_ok(environment):
    record = run(make_plan("method=longformer method.window=8"), environment)
    assert (record["status"], record["reason"]) == ("ok", "")
    assert set(record["results"]) == {"memory", "latency", "error"}


def test_the_overhead_of_a_cell_is_below_half_a_second(environment):
    run(make_plan("method=sdpa seq_len=64"), environment)  # starts the fork server
    overheads = [run(make_plan(f"method=sdpa seed={seed}"), environment)["overhead_s"] for seed in range(5)]
    assert min(overheads) < 0.5, overheads  # the machine may be busy


@pytest.mark.parametrize("limits", [LIMITS, PLAIN], ids=["forkserver", "subprocess"])
@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("Raises", "error", "ZeroDivisionError: the method's own mistake"),
        ("Refuses", "unsupported", "needs a device that is not here"),
        ("Killed", "error", "killed by SIGKILL"),
        ("Exits", "error", "ended with code 3.*last words"),
        ("Eats", "oom", "allocate"),
        ("Babbles", "ok", ""),
    ],
)
def test_each_end_of_a_process_is_a_status(name, status, reason, limits, environment):
    import re

    record = run(misbehaving(name, "measure.passes=[memory]"), environment, limits)
    assert record["status"] == status, record
    assert re.search(reason, record["reason"])
    assert "\n" not in record["reason"]
    assert ("Traceback" in record["traceback"]) == (name in ("Raises", "Refuses", "Eats"))


@pytest.mark.parametrize(
    ("name", "way", "status", "reason"),
    [
        ("Closes", "memory", "error", "Bad file descriptor|before it was done"),
        ("Leaks", "latency", "oom", "allocate"),
        ("Leaves", "memory", "error", "SystemExit: enough"),
        ("SetsThreads", "latency", "error", "the method changed the number of threads from 1 to 2"),
        ("SetsThreads", "memory", "error", "the method changed the number of threads from 1 to 3"),
        (
            "SetsDtype",
            "latency",
            "error",
            "the method changed the default dtype from torch.float32 to torch.float64",
        ),
    ],
)
def test_what_a_method_does_to_its_process_costs_its_own_cell_alone(name, way, status, reason, environment):
    import re

    lasting = ["measure.precision=0", "measure.max_rounds=10000", "measure.budget_s=30"]  # until memory runs out
    plan = misbehaving(name, f"measure.passes=[{way}]", "hardware.threads=1", *lasting)
    record = run(plan, environment)
    assert record["status"] == status, record
    assert re.search(reason, record["reason"]), record["reason"]
    assert run(make_plan("method=sdpa measure.passes=[memory]"), environment)["status"] == "ok"


@pytest.mark.parametrize("limits", [LIMITS, PLAIN], ids=["forkserver", "subprocess"])
def test_what_a_method_forks_does_not_outlive_its_cell(limits, environment, tmp_path):
    mark = tmp_path / "pids"
    record = run(misbehaving("Forks", "measure.passes=[memory]", f"+method.mark={mark}"), environment, limits)
    assert (record["status"], record["reason"]) == ("ok", "")
    pids = [int(line) for line in mark.read_text().split()]
    assert len(pids) == 2
    assert not psutil.wait_procs([psutil.Process(pid) for pid in pids if lives(pid)], timeout=5)[1]


def lives(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("isolation", ["forkserver", "subprocess"])
def test_a_cell_that_hangs_is_ended_and_the_parent_sleeps_meanwhile(isolation, environment):
    cpu = time.process_time()
    record = run(misbehaving("Hangs"), environment, Limits(isolation, timeout_s=4))
    assert record["status"] == "timeout"
    assert record["reason"] == "not done after 4 s, in pass memory (timeout_s)"
    assert time.process_time() - cpu < 1.0
    assert record["elapsed_s"] < 10


def test_nothing_of_a_killed_cell_is_left(environment):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    run(misbehaving("Hangs"), environment, Limits("subprocess", timeout_s=4))
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert not left


def test_a_loss_that_is_no_number_is_diverged(environment):
    target = "method._target_=tests.bench.misbehaving.Explodes"
    plan = make_plan(f"method=custom {target} task=copying seq_len=null task.train.steps=2 measure.passes=[train]")
    record = run(plan, environment)
    assert record["status"] == "diverged"
    assert "training loss was nan by step 2" in record["reason"]


def test_a_learning_rate_too_high_diverges(environment):
    plan = make_plan("task=copying seq_len=null task.train.steps=60 task.train.lr=1e30 task.train.grad_clip=0")
    assert run(plan, environment)["status"] == "diverged"


def test_what_cannot_fit_is_not_tried(environment):
    plan = make_plan("method=full seq_len=65536 heads=8")
    started = time.perf_counter()
    record = run(plan, environment)
    assert record["status"] == "skipped"
    assert "MiB at least, the limit is 1500" in record["reason"]
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("method=sdpa hardware=cuda", "finds no such device|no kernel"),
        ("method=linformer causal=true", "no causal form"),
        ("method=sdpa method.kernel=efficient", "no efficient attention kernel"),
    ],
)
def test_unsupported_is_a_status_with_its_reason(line, reason, environment):
    import re

    import torch

    if "cuda" in line and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    record = run(make_plan(line), environment)
    assert record["status"] == "unsupported"
    assert re.search(reason, record["reason"])


def test_ctrl_c_kills_the_cell_and_passes_on():
    job = {"passes": ["memory"], "cell": misbehaving("Hangs")[0].cell.content(), "memory_limit_mib": None}
    threading.Timer(1.5, lambda: os.kill(os.getpid(), 2)).start()
    with pytest.raises(KeyboardInterrupt):
        isolate.run(job, timeout_s=60)


def test_progress_of_a_training_run_reaches_the_parent(environment):
    seen = []
    line = "task=copying seq_len=null task.train.steps=4 task.train.eval_every=2 measure.passes=[train]"
    run_cell(make_plan(line)[0], LIMITS, environment, "test", seen.append)
    assert [(message["step"], message["steps"]) for message in seen] == [(2, 4), (4, 4)]


@pytest.mark.parametrize(("kills", "status"), [(2, "ok"), (99, "error")])
def test_a_killed_fork_server_is_replaced(kills: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after it was asked for a process, before it has said which; too often is an error of the cell."""
    left, real = iter(range(kills)), forkserver.read_signed

    def read_signed(fd: int) -> int:
        if next(left, None) is None:
            return int(real(fd))
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        raise EOFError

    monkeypatch.setattr(forkserver, "read_signed", read_signed)
    (item,) = make_plan("method=linear")
    job = {"passes": ["machine"], "cell": item.cell.content(), "memory_limit_mib": None}
    outcome = isolate.run(job, timeout_s=100, isolation="forkserver")
    assert outcome.status == status, outcome.reason
    assert status == "ok" or outcome.reason == "the server that forks cells was killed 3 times"
    assert outcome.elapsed_s > 0.1


def test_a_spawned_process_that_is_killed_at_once_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    (item,) = make_plan("method=linear")
    job = {"passes": ["machine"], "cell": item.cell.content(), "memory_limit_mib": None, "long": "x" * 2**20}
    outcome = isolate.run(job, timeout_s=100, isolation="subprocess")
    assert (outcome.status, outcome.reason) == ("error", "the cell's process ended with code 1 before it was done")


def test_a_look_at_the_machine_that_is_killed_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (item,) = make_plan("method=linear")
    real, calls = isolate.run, []

    def run(job: dict[str, Any], **how: Any) -> isolate.Outcome:
        calls.append(job["passes"])
        return isolate.Outcome(reason="killed") if len(calls) == 1 else real(job, **how)

    monkeypatch.setattr(isolate, "run", run)
    assert look(item.cell, Limits()).board
    assert calls == [["machine"], ["machine"]]
