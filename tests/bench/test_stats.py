"""Intervals: they cover what they should."""

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, t

from bench.stats import Estimate, is_known, median, share, speedup, tail


def test_median_of_constants_has_no_width():
    assert median([2.0] * 5) == Estimate(2.0, 2.0, 2.0)


def test_five_samples_give_their_range():
    found = median([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.value, found.low, found.high) == (3.0, 1.0, 5.0)


def test_median_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for index in range(300):
        found = median(rng.lognormal(0.0, 0.3, size=15).tolist(), seed=index)
        hits += found.low <= 1.0 <= found.high
    assert 0.90 <= hits / 300 <= 0.99


@pytest.mark.parametrize("count", [6, 10])
def test_intervals_of_few_samples_cover_as_often_as_they_say(count):
    """Plain percentiles cover 94 % here, and less of rounds that follow on each other."""
    rng = np.random.default_rng(count)
    hits = 0
    for index in range(1000):
        found = median(rng.lognormal(0.0, 0.1, size=count).tolist(), seed=index % 20)
        hits += found.low <= 1.0 <= found.high
    assert 0.93 <= hits / 1000 <= 0.98


def test_tails_are_those_of_students_distribution():
    for count in (3, 6, 40):
        further = norm.ppf(tail(count)) / np.sqrt(count / (count - 1))
        assert t.cdf(further, count - 1) == pytest.approx(0.025)
    assert tail(10**6) == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize("count", [3, 6, 7, 10, 33, 40, 333])
def test_the_interval_is_that_of_scipys_bootstrap(count):
    rng = np.random.default_rng(count)
    for samples in (rng.lognormal(size=count), rng.integers(0, 3, count) + np.arange(count) // 2 * 0.5):
        want = bootstrap(
            (samples,),
            np.median,
            confidence_level=1 - 2 * tail(count),
            n_resamples=2000,
            method="percentile",
            rng=np.random.default_rng(3),
        ).confidence_interval
        found = median(samples, seed=3)
        assert found.value == pytest.approx(np.median(samples), rel=1e-12)
        assert (found.low, found.high) == (pytest.approx(want.low, rel=1e-12), pytest.approx(want.high, rel=1e-12))


def test_same_samples_same_interval():
    samples = list(np.random.default_rng(1).normal(10, 1, 20))
    assert median(samples) == median(samples)


def test_wilson_interval():
    """The textbook case: 8 of 10 gives 0.49 to 0.94."""
    found = share(8, 10)
    assert (found.low, found.high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert share(0, 20).low == 0.0


def test_speedup_pairs_rounds_whatever_their_order():
    """A drift that hits both subjects of a round leaves the ratio alone."""
    samples = []
    for index, drift in enumerate((1.0, 5.0, 0.5, 2.0, 1.0)):
        samples += [
            {"round": index, "subject": "baseline", "wall_s": 3.0 * drift},
            {"round": index, "subject": "method", "wall_s": 1.0 * drift},
        ]
    assert speedup(reversed(samples)) == Estimate(3.0, 3.0, 3.0)


def test_rates_turn_intervals_around():
    rate = Estimate(2.0, 1.0, 4.0).inverse(8.0)
    assert (rate.value, rate.low, rate.high) == (4.0, 2.0, 8.0)


def test_the_interval_that_ends_a_measurement_is_between_order_statistics():
    """n=6: the extremes (97 %); n=20: the 6th from either end (95.9 %). From tables of the sign test."""
    assert not is_known([1.0] * 5, 0.5)  # no 95 % interval from five
    assert is_known([1.0, 1.0, 1.0, 1.0, 1.0, 1.01], 0.02)
    assert not is_known([1.0, 1.0, 1.0, 1.0, 1.0, 1.03], 0.02)
    twenty = [0.9] * 5 + [0.99] + [1.0] * 8 + [1.01] + [1.1] * 5
    assert is_known(twenty, 0.011)
    assert not is_known(twenty, 0.009)
    assert not is_known([0.9, *twenty[1:5], 0.9, *twenty[6:]], 0.05)


def test_a_precise_measurement_ends_early(monkeypatch):
    from bench.cell import Measure
    from bench.measure import latency

    turns = iter(range(10**6))
    monkeypatch.setattr(latency.Turn, "warm_up", lambda self: None)
    monkeypatch.setattr(
        latency.Turn, "block", lambda self: {"wall_s": 1 + 1e-4 * (next(turns) % 7), "cpu_s": 1.0, "calls": 1}
    )
    case = type("Case", (), {"call": staticmethod(lambda: None), "backend": "fake", "tokens": 1})()
    rounds = []
    for precision in (0.02, 0.0):
        settings = Measure((), 6, 30, 1e9, precision, 0.02, (1.0,), 1, "auto")
        rounds.append(len(latency.measure(case, case, settings, 1, lambda: 0.0)["samples"]) // 2)
    assert rounds == [6, 30]
