"""Timing: the clock waits for the device, rounds are paired, A against A is 1."""

import itertools
import statistics
import time

import pytest

from bench.case import build_case
from bench.cell import Plugin
from bench.device import clock
from bench.measure import latency
from bench.model import BASELINE_METHOD
from bench.stats import speedup
from tests.bench.conftest import make_cell


class AsyncDevice:
    """A device that only queues: work takes its time when someone waits."""

    def __init__(self, work_s: float) -> None:
        self.work_s = work_s
        self.queued = 0.0
        self.waits = 0

    def submit(self) -> None:
        self.queued += self.work_s

    def wait(self, device: str) -> None:
        self.waits += 1
        time.sleep(self.queued)
        self.queued = 0.0


class FakeCase:
    def __init__(self, call) -> None:
        self.call = call
        self.backend = "fake"
        self.tokens = 100


def settings(**changes):
    cell = make_cell(*(f"measure.{key}={value}" for key, value in changes.items()))
    return cell.measure


def test_the_clock_waits_for_queued_work():
    device = AsyncDevice(0.02)
    now = clock("fake", device.wait)
    start = now()
    device.submit()
    assert now() - start >= 0.02


def test_latency_sees_asynchronous_work():
    """With an unsynchronised clock both subjects would take no time at all."""
    device = AsyncDevice(0.004)
    slow = FakeCase(lambda: [device.submit(), device.submit()])
    fast = FakeCase(device.submit)
    found = latency.measure(slow, fast, settings(budget_s=0, block_s=0.01), 1, clock("fake", device.wait))
    assert speedup(found["samples"]).value == pytest.approx(0.5, rel=0.2)
    assert min(sample["wall_s"] for sample in found["samples"]) >= 0.004


@pytest.mark.parametrize("at", [3, 9, 20, 33])
def test_a_clock_that_jumps_spoils_a_round_and_no_estimate(at):
    """A machine that sleeps for an hour, say, anywhere in the measurement."""
    readings = itertools.count()

    def jumping():
        return time.perf_counter() + (3600 if next(readings) >= at else 0)

    case = FakeCase(lambda: time.sleep(0.001))
    found = latency.measure(case, case, settings(budget_s=0, min_rounds=7, block_s=0.002), 1, jumping)
    assert 0.5 < speedup(found["samples"]).value < 2
    assert statistics.median(s["wall_s"] for s in found["samples"]) < 1


def test_long_calls_are_timed_one_by_one(monkeypatch):
    monkeypatch.setattr(latency, "LONG_S", 0.02)
    pauses = iter([0.05] + [0.03] * 3 + [0.001] * 10_000)  # the first call compiles, say; later ones become short
    changing = FakeCase(lambda: time.sleep(next(pauses)))
    steady = FakeCase(lambda: time.sleep(0.03))
    found = latency.measure(changing, steady, settings(budget_s=0, min_rounds=6), 1, clock("cpu"))
    calls = {
        name: [s["calls"] for s in found["samples"] if s["subject"] == name] for name in ("method", "baseline")
    }
    assert calls["baseline"] == [1] * 6
    assert calls["method"][:4] == [1] * 4
    assert min(calls["method"][4:]) > 5  # in blocks again
    walls = [s["wall_s"] for s in found["samples"] if s["subject"] == "method"]
    assert walls[0] == pytest.approx(0.03, rel=0.5)  # the first call is no sample


def test_rounds_are_paired_and_alternate():
    case = FakeCase(lambda: None)
    found = latency.measure(case, case, settings(budget_s=0, min_rounds=4), 1, clock("cpu"))
    order = [(sample["round"], sample["position"], sample["subject"]) for sample in found["samples"]]
    assert order[:4] == [(0, 0, "method"), (0, 1, "baseline"), (1, 0, "baseline"), (1, 1, "method")]
    assert len(order) == 8  # four rounds
    assert all(sample["calls"] >= 1 and sample["wall_s"] > 0 for sample in found["samples"])


def test_both_orders_come_as_often():
    case = FakeCase(lambda: None)
    found = latency.measure(case, case, settings(budget_s=0, min_rounds=5), 1, clock("cpu"))
    assert len(found["samples"]) == 12


def test_the_number_of_rounds_follows_budget_and_bounds():
    case = FakeCase(lambda: time.sleep(0.001))
    most = latency.measure(case, case, settings(budget_s=60, max_rounds=6), 1, clock("cpu"))
    assert len(most["samples"]) == 12


@pytest.mark.parametrize("level", ["core", "mixer", "model"])
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_every_level_and_mode_can_be_called(level, mode):
    cell = make_cell(
        "method=linformer", "method.rank=8", f"level={level}", f"mode={mode}", "seq_len=48", "batch_size=2"
    )
    for method in (cell.method, BASELINE_METHOD):
        case = build_case(cell, method)
        case.call()
        assert case.tokens == 96
        assert case.inputs_bytes > 0


def test_training_cost_has_gradients_for_inputs_and_parameters():
    cell = make_cell("method=linformer", "mode=train", "seq_len=32", "heads=1", "head_dim=4")
    grads = build_case(cell, cell.method).call()
    assert len(grads) == 4
    assert all(float(grad.abs().sum()) > 0 for grad in grads)


def test_a_against_a_is_one():
    """The baseline against itself, over 12 cells: nearly all intervals cover 1."""
    cell = make_cell(
        "seq_len=256", "heads=2", "measure.budget_s=0", "measure.min_rounds=10", "measure.block_s=0.005"
    )
    covered = 0
    for _ in range(12):
        one, other = (build_case(cell, Plugin("sdpa", BASELINE_METHOD.target)) for _ in range(2))
        found = speedup(latency.measure(one, other, cell.measure, 1, clock("cpu"))["samples"])
        covered += found.low <= 1 <= found.high
    assert covered >= 9
