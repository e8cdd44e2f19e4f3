from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from trimtab.metrics.correlation import pearson, spearman


@given(seed=st.integers(0, 999), n=st.integers(3, 40))
def test_both_match_scipy_where_ties_are_many(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=n), np.r_[0.0, 1.0, draw.integers(0, 3, n - 2)]
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)


def test_spearman_of_any_increasing_map_is_one() -> None:
    x = np.array([0.1, 0.5, 0.7, 2.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert spearman(x, -(x**3)) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    "values", [[], [1.0], [1.0, 2.0], [3.0, 3.0, 3.0, 3.0], [0.1, 0.1, 0.1 + 1e-17]]
)
@pytest.mark.parametrize("statistic", [pearson, spearman])
def test_too_few_or_constant_values_have_no_correlation(
    statistic: Callable[[np.ndarray, np.ndarray], float], values: list[float]
) -> None:
    x, y = np.array(values, dtype=np.float64), np.arange(len(values), dtype=np.float64)
    assert np.isnan(statistic(x, y))
    assert np.isnan(statistic(y, x))


def test_rounding_noise_is_not_an_order() -> None:
    x = np.nextafter(0.7, [0.0, 1.0, 0.0, 1.0])
    assert np.isnan(spearman(x, np.arange(4.0)))
