"""Schedules against torch's own, and against the rates that Long Range Arena's settings come to."""

import pytest
import torch

from bench.training.schedule import SCHEDULES


def rates(name, warmup, steps):
    return [SCHEDULES[name](step, warmup, steps) for step in range(steps)]


def test_cosine():
    found = rates("cosine", 10, 100)
    assert found[0] == pytest.approx(0.1)
    assert max(found) == found[9] == found[10] == 1.0
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] < 0.001


@pytest.mark.parametrize(("warmup", "steps"), [(10, 100), (50, 100), (2, 7)])
def test_linear_is_torchs_one_cycle(warmup, steps):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1.0, total_steps=steps, pct_start=warmup / steps, anneal_strategy="linear", cycle_momentum=False
    )
    expected = []
    for _ in range(steps):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(expected) < steps:
            cycle.step()
    assert rates("linear", warmup, steps) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("warmup", "steps", "peak"), [(1000, 5000, 1.6e-3), (8000, 20_000, 5.6e-4), (8000, 5000, 3.5e-4)]
)
def test_rsqrt_peaks_where_long_range_arena_does(warmup, steps, peak):
    found = [0.05 * rate for rate in rates("rsqrt", warmup, steps)]
    assert max(found) == pytest.approx(peak, rel=0.02)
    assert found[0] == 0
    if steps > warmup:
        assert found[4 * 1000] == pytest.approx(0.05 * min(1, 4000 / warmup) / max(4000, warmup) ** 0.5)


def test_constant():
    assert rates("constant", 4, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_length_has_rates(name, warmup, steps):
    assert all(0 <= rate <= 1 for rate in rates(name, warmup, steps))
