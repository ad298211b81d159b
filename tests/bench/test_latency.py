"""Timing: the clock waits for the device, rounds are paired, A against A is 1.

Time is simulated here, so that these tests say the same on a busy machine. On real time the last is
`make selfbench ARGS='--pairs 200'`.
"""

import itertools
import math
import random
import statistics
from dataclasses import replace
from functools import cache

import pytest

from bench.case import build_case
from bench.device import clock
from bench.measure import latency
from bench.model import BASELINE_METHOD
from bench.stats import share, speedup
from tests.bench.conftest import make_cell


class Machine:
    """A clock that only work moves. Work is queued, or done at once; waiting does what is queued."""

    def __init__(self) -> None:
        self.time = 0.0
        self.queued = 0.0

    def now(self) -> float:
        return self.time

    def work(self, seconds: float) -> None:
        self.time += seconds

    def submit(self, seconds: float) -> None:
        self.queued += seconds

    def wait(self, device: str) -> None:
        self.work(self.queued)
        self.queued = 0.0

    def clock(self):
        """bench/device.py's, over this machine's time."""
        return clock("fake", self.wait, self.now)


class FakeCase:
    def __init__(self, call) -> None:
        self.call = call
        self.backend = "fake"
        self.tokens = 100


@cache
def defaults():
    return make_cell().measure


def measure(method, baseline, now, **changes):
    """Samples of two calls, by default over as few rounds as are allowed."""
    settings = replace(defaults(), **{"budget_s": 0.0, **changes})
    return latency.measure(FakeCase(method), FakeCase(baseline), settings, 1, now)["samples"]


def test_the_clock_waits_for_queued_work():
    machine = Machine()
    now = machine.clock()
    start = now()
    machine.submit(0.02)
    assert now() - start == pytest.approx(0.02)


def test_latency_sees_asynchronous_work():
    """With an unsynchronised clock both subjects would take no time at all."""
    machine = Machine()
    samples = measure(lambda: machine.submit(0.008), lambda: machine.submit(0.004), machine.clock(), block_s=0.01)
    assert speedup(samples).value == pytest.approx(0.5)
    assert {round(sample["wall_s"], 9) for sample in samples} == {0.008, 0.004}


@pytest.mark.parametrize("at", [3, 9, 20, 33])
def test_a_clock_that_jumps_spoils_a_round_and_no_estimate(at):
    """A machine that sleeps for an hour, say, anywhere in the measurement."""
    machine, readings = Machine(), itertools.count()

    def jumping():
        if next(readings) == at:
            machine.work(3600)
        return machine.time

    samples = measure(
        lambda: machine.work(0.001), lambda: machine.work(0.001), jumping, min_rounds=7, block_s=0.002
    )
    assert next(readings) > at
    assert speedup(samples).value == pytest.approx(1)
    assert statistics.median(sample["wall_s"] for sample in samples) == pytest.approx(0.001)


def test_long_calls_are_timed_one_by_one():
    machine = Machine()
    first, long = 100 * latency.LONG_S, 2 * latency.LONG_S
    pauses = itertools.chain(
        [first, *[long] * 3], itertools.repeat(0.001)
    )  # the first compiles, later ones are short
    samples = measure(
        lambda: machine.work(next(pauses)), lambda: machine.work(long), machine.now, min_rounds=6, block_s=0.05
    )
    calls = {name: [s["calls"] for s in samples if s["subject"] == name] for name in ("method", "baseline")}
    assert calls["baseline"] == [1] * 6
    assert calls["method"][:4] == [1] * 4
    assert min(calls["method"][4:]) > 5  # in blocks again
    walls = [s["wall_s"] for s in samples if s["subject"] == "method"]
    assert walls[0] == pytest.approx(long)  # the first call is no sample


def test_rounds_are_paired_and_alternate():
    machine = Machine()
    samples = measure(lambda: machine.work(1e-3), lambda: machine.work(1e-3), machine.now, min_rounds=4)
    order = [(sample["round"], sample["position"], sample["subject"]) for sample in samples]
    assert order[:4] == [(0, 0, "method"), (0, 1, "baseline"), (1, 0, "baseline"), (1, 1, "method")]
    assert len(order) == 8  # four rounds
    assert all(sample["calls"] >= 1 and sample["wall_s"] > 0 for sample in samples)


def test_both_orders_come_as_often():
    machine = Machine()
    samples = measure(lambda: machine.work(1e-3), lambda: machine.work(1e-3), machine.now, min_rounds=5)
    assert len(samples) == 12


def test_the_number_of_rounds_has_an_upper_bound():
    """Of times that differ too much for the precision that is asked for."""
    machine, chance = Machine(), random.Random(0)
    samples = measure(
        lambda: machine.work(chance.uniform(0.1, 1)),
        lambda: machine.work(0.1),
        machine.now,
        budget_s=60,
        max_rounds=6,
    )
    assert len(samples) == 12


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
    """One call against itself, 200 times on a machine that drifts by half, is disturbed and jitters.

    The share of intervals that hold 1 is that of 95 % intervals, as far as 200 can tell.
    """
    chance = random.Random(5)
    held = 0
    for _ in range(200):
        machine, phase = Machine(), chance.uniform(0, 2 * math.pi)

        def call(machine=machine, phase=phase):
            drift = 1 + 0.25 * math.sin(machine.time / 0.3 + phase)
            disturbed = chance.expovariate(1 / 0.005) if chance.random() < 0.02 else 0.0
            machine.work(0.001 * drift * chance.lognormvariate(0, 0.1) + disturbed)

        found = speedup(measure(call, call, machine.now, min_rounds=10, block_s=0.005))
        assert found.low < found.high
        held += found.low <= 1 <= found.high
    covered = share(held, 200)
    assert covered.low <= 0.95 <= covered.high


def test_a_real_call_against_itself_is_about_one():
    """On this machine's time, whatever else runs: no bias that alternating would leave."""
    cell = make_cell(
        "seq_len=256", "heads=2", "measure.budget_s=0", "measure.min_rounds=20", "measure.block_s=0.005"
    )
    one, other = (build_case(cell, BASELINE_METHOD) for _ in range(2))
    found = speedup(latency.measure(one, other, cell.measure, 1, clock("cpu"))["samples"])
    assert 0.5 < found.value < 2
