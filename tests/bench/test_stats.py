"""Intervals: they cover what they should."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from bench.stats import Estimate, is_known, median, share, speedup


def test_median_of_constants_has_no_width():
    assert median([2.0] * 5) == Estimate(2.0, 2.0, 2.0)


def test_five_samples_give_their_range():
    found = median([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.value, found.low, found.high) == (3.0, 1.0, 5.0)


@pytest.mark.parametrize("count", [6, 7, 8, 10, 15, 40])
@pytest.mark.parametrize("draw", ["lognormal", "normal", "standard_cauchy"])
def test_intervals_cover_the_median_as_often_as_they_say(count, draw):
    """4000 sets: 95 % is told from 94 and 96."""
    rng = np.random.default_rng(count)
    sets = getattr(rng, draw)(size=(4000, count))
    truth = 1.0 if draw == "lognormal" else 0.0
    hits = [found.low <= truth <= found.high for found in map(median, sets.tolist())]
    assert 0.94 <= np.mean(hits) <= 0.965


@pytest.mark.parametrize("count", [6, 7, 9, 16, 33, 100, 1001])
def test_the_interval_interpolates_those_of_the_sign_test(count):
    """The paper's formula, with the binomial distribution from scipy."""
    samples = np.sort(np.random.default_rng(count).exponential(size=count))
    rank = int(binom.ppf(0.025, count, 0.5))  # the interval from here outwards covers 95 %
    wide, narrow = (1 - 2 * binom.cdf(r - 1, count, 0.5) for r in (rank, rank + 1))
    assert narrow < 0.95 <= wide
    given_up = (wide - 0.95) / (wide - narrow)
    weight = (count - rank) * given_up / (rank + (count - 2 * rank) * given_up)
    low = (1 - weight) * samples[rank - 1] + weight * samples[rank]
    high = (1 - weight) * samples[count - rank] + weight * samples[count - rank - 1]
    found = median(samples.tolist())
    assert (found.low, found.high) == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60))
def test_an_interval_lies_about_its_median_and_within_the_samples(samples):
    found = median(samples)
    assert min(samples) <= found.low <= found.value <= found.high <= max(samples)
    turned = median([-value for value in samples])
    assert (turned.low, turned.value, turned.high) == (-found.high, -found.value, -found.low)


def test_ten_thousand_rounds_have_an_interval():
    """2**10000 is no float. The normal approximation puts the ranks 0.98 * sqrt(10000) from the middle."""
    found = median([float(i) for i in range(10_000)])
    assert (found.low, found.high) == (pytest.approx(4901, abs=1), pytest.approx(5098, abs=1))
    assert is_known([float(i) for i in range(10_000)], 0.02)
    assert not is_known([float(i) for i in range(10_000)], 0.019)


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
