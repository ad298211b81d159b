from __future__ import annotations

import math
import random

import pytest

from reports.fits import covers_one, crossover, exponent, extrapolated, over_seeds

LENGTHS = [512, 1024, 2048, 4096, 8192]


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_exponent_of_a_power_law(power: float) -> None:
    fit = exponent(LENGTHS, [0.3 * n**power for n in LENGTHS])
    assert fit is not None
    assert fit.value == pytest.approx(power, abs=1e-9)
    assert fit.count == 5


def test_exponent_interval_covers_the_truth_under_noise() -> None:
    wobble = [1.02, 0.97, 1.01, 1.03, 0.98]
    fit = exponent(LENGTHS, [w * n**2 for n, w in zip(LENGTHS, wobble, strict=True)])
    assert fit is not None
    assert fit.low < 2 < fit.high
    assert fit.high - fit.low < 0.2


def test_exponent_leaves_out_short_lengths_and_needs_three() -> None:
    flat_then_linear = [(64, 100.0), (128, 100.0), (512, 512.0), (1024, 1024.0), (2048, 2048.0)]
    fit = exponent([n for n, _ in flat_then_linear], [v for _, v in flat_then_linear])
    assert fit is not None
    assert fit.value == pytest.approx(1.0)
    assert exponent([64, 128, 512, 1024], [1, 2, 3, 4]) is None
    assert exponent([1024, 1024, 1024], [1, 2, 3]) is None


def band(speedups: list[float], noise: float) -> tuple[list[float], list[float], list[float]]:
    return speedups, [s * (1 - noise) for s in speedups], [s * (1 + noise) for s in speedups]


def test_crossover_between_measured_lengths() -> None:
    # speedup = n / 3000 passes 1 at 3000 exactly, and is a straight line in logarithms.
    cross = crossover(LENGTHS, *band([n / 3000 for n in LENGTHS], 0.05))
    assert cross.verdict == "crosses"
    assert cross.value == pytest.approx(3000)
    assert cross.low == pytest.approx(3000 / 1.05)
    assert cross.high == pytest.approx(3000 / 0.95)


def test_crossover_outside_the_measured_range() -> None:
    assert (
        crossover(LENGTHS, *band([0.1 * n / 8192 for n in LENGTHS], 0.05)).verdict
        == "not within the measured range"
    )
    assert crossover(LENGTHS, *band([n / 100 for n in LENGTHS], 0.05)).verdict == "always faster"
    assert crossover(LENGTHS, *band([1.01, 0.99, 1.0, 1.02, 0.98], 0.05)).verdict == "no difference"
    assert crossover([], [], [], []).verdict == "not within the measured range"


def test_crossover_with_an_open_end() -> None:
    cross = crossover([512, 1024], [0.5, 1.01], [0.4, 0.9], [0.6, 1.1])
    assert cross.verdict == "crosses"
    assert cross.high is None
    assert cross.low is not None
    assert 512 < cross.low < 1024


def test_a_method_that_falls_back_behind_has_no_crossover() -> None:
    cross = crossover([512, 1024, 2048], *band([0.5, 2.0, 0.5], 0.01))
    assert cross.verdict == "not within the measured range"


def test_the_last_crossing_counts() -> None:
    cross = crossover([512, 1024, 2048, 4096], *band([0.5, 2.0, 0.5, 2.0], 0.01))
    assert cross.value == pytest.approx(math.sqrt(2048 * 4096))


def test_extrapolation_finds_where_a_law_leads() -> None:
    # speedup = n / 20,000 exactly: the crossing lies beyond the longest length, without uncertainty.
    cross = extrapolated(LENGTHS, [n / 20_000 for n in LENGTHS])
    assert cross is not None
    assert cross.verdict == "extrapolated"
    assert (cross.low, cross.value, cross.high) == pytest.approx((20_000,) * 3)


def test_the_interval_of_an_extrapolation_covers_the_truth() -> None:
    chance, hits, runs = random.Random(5), 0, 200
    for _ in range(runs):
        cross = extrapolated(LENGTHS, [n / 20_000 * math.exp(chance.gauss(0, 0.03)) for n in LENGTHS])
        assert cross is not None
        assert cross.low is not None
        assert cross.high is not None
        hits += cross.low <= 20_000 <= cross.high
    assert 0.90 <= hits / runs <= 0.99


def test_no_law_is_trusted_without_reason() -> None:
    assert extrapolated(LENGTHS, [0.5] * len(LENGTHS)) is None  # level
    assert extrapolated(LENGTHS, [1000 / n for n in LENGTHS]) is None  # falling
    assert extrapolated(LENGTHS, [n / 1e9 for n in LENGTHS]) is None  # too far
    assert extrapolated(LENGTHS, [n / 3000 for n in LENGTHS]) is None  # within what was measured
    assert extrapolated([1024, 2048], [0.1, 0.2]) is None
    assert extrapolated([1024, 2048, 4096, 8192], [0.1, 0.6, 0.1, 0.6]) is None  # noise


def test_covers_one() -> None:
    assert covers_one(0.97, 1.02)
    assert covers_one(math.nan, math.nan)
    assert not covers_one(1.01, 1.2)
    assert not covers_one(0.7, 0.9)


def test_over_seeds() -> None:
    two = over_seeds([0.5, 0.6], math.nan, math.nan)
    assert two.value == pytest.approx(0.55)
    # t(0.975, 1) = 12.706, standard error 0.05
    assert two.high - two.value == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert two.way == "Student t, 2 seeds"
    one = over_seeds([0.5], 0.47, 0.53)
    assert (one.low, one.high, one.way) == (0.47, 0.53, "one seed")
    agreeing = over_seeds([1.0, 1.0], 0.98, 1.0)
    assert (agreeing.low, agreeing.high) == (0.98, 1.0)
