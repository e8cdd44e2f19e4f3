import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from trimtab.metrics.intervals import bootstrap, sign_test, wilson

COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda ab: (ab[0], ab[0] + ab[1]))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(COUNTS.filter(lambda counts: counts[1] > 0), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(counts: tuple[int, int], level: float) -> None:
    expected = scipy.stats.binomtest(*counts).proportion_ci(level, method="wilson")
    assert wilson(*counts, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_half_of_a_hundred_by_hand() -> None:
    low, high = wilson(50, 100)
    # centre .5; half-width z/(1+z^2/n) sqrt(.25/n + z^2/4n^2) with z = 1.959964
    assert (low, high) == pytest.approx((0.403832, 0.596168), abs=1e-6)


@given(COUNTS)
def test_wilson_holds_the_share_and_mirrors_it(counts: tuple[int, int]) -> None:
    successes, trials = counts
    interval = wilson(successes, trials)
    if trials == 0:
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
        return
    assert 0.0 <= interval.low <= successes / trials <= interval.high <= 1.0
    mirrored = wilson(trials - successes, trials)
    assert interval == pytest.approx((1.0 - mirrored.high, 1.0 - mirrored.low), abs=1e-12)


@pytest.mark.parametrize(
    ("successes", "trials", "level"), [(2, 1, 0.95), (-1, 1, 0.95), (0, 1, 1.0)]
)
def test_wilson_refuses_what_is_no_share(successes: int, trials: int, level: float) -> None:
    with pytest.raises(ValueError, match="must hold"):
        wilson(successes, trials, level)


def test_the_bootstrap_of_a_mean_has_the_width_of_its_standard_error() -> None:
    x = rng(1).normal(3.0, 2.0, size=2000)
    low, high = bootstrap(x, np.ones_like(x), rng(), num_draws=4000)
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.1 * half)


def test_the_bootstrap_of_a_share_agrees_with_wilson() -> None:
    won = np.repeat([1.0, 0.0], [300, 700])
    assert bootstrap(won, np.ones_like(won), rng()) == pytest.approx(wilson(300, 1000), abs=0.005)


def test_rows_are_drawn_together() -> None:
    # Every row has the ratio 1/2, so every draw has it.
    denominator = np.array([2.0, 4.0, 6.0, 100.0])
    assert bootstrap(denominator / 2.0, denominator, rng()) == (0.5, 0.5)


@given(st.lists(st.integers(1, 3).map(float), min_size=1, max_size=30), st.integers(0, 99))
def test_a_bootstrapped_mean_stays_between_the_extremes(scores: list[float], seed: int) -> None:
    x = np.array(scores)
    low, high = bootstrap(x, np.ones_like(x), rng(seed), num_draws=50)
    assert min(scores) - 1e-12 <= low <= high <= max(scores) + 1e-12


def test_the_same_seed_gives_the_same_interval_and_another_one_not() -> None:
    x = rng(1).normal(size=50)
    ones = np.ones_like(x)
    assert bootstrap(x, ones, rng(3)) == bootstrap(x, ones, rng(3))
    assert bootstrap(x, ones, rng(3)) != bootstrap(x, ones, rng(4))


def test_nothing_to_divide_by_has_no_interval() -> None:
    nothing = np.zeros(0)
    assert math.isnan(bootstrap(nothing, nothing, rng()).low)
    assert math.isnan(bootstrap(np.zeros(3), np.zeros(3), rng()).high)


def test_draws_without_a_denominator_are_left_out() -> None:
    # One row of three has a denominator: a draw that misses it has no ratio; all others are 1.
    only = np.array([1.0, 0.0, 0.0])
    assert bootstrap(only, only, rng()) == (1.0, 1.0)


def test_the_sign_test_by_hand() -> None:
    assert sign_test(5, 0) == pytest.approx(2 / 2**5)
    assert sign_test(4, 1) == pytest.approx(2 * (5 + 1) / 2**5)
    assert sign_test(7, 7) == pytest.approx(1.0)
    assert sign_test(0, 0) == 1.0


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_is_symmetric_and_a_probability(wins: int, losses: int) -> None:
    assert sign_test(wins, losses) == pytest.approx(sign_test(losses, wins))
    assert 0.0 < sign_test(wins, losses) <= 1.0 + 1e-12
