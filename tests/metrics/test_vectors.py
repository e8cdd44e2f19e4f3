import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from trimtab.metrics.vectors import cosine, difference

DRAW = np.random.default_rng(0)


def test_cosine_matches_scikit_learn() -> None:
    a, b = DRAW.normal(size=(7, 5)), DRAW.normal(size=(4, 5))
    got = cosine(a[:, None], b[None, :])
    np.testing.assert_allclose(got, cosine_similarity(a, b), atol=1e-14)


@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
def test_cosine_ignores_length_and_stays_within_one(scale: float, seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 6))
    value = cosine(a, b)
    assert -1 <= value <= 1
    assert cosine(scale * a, b) == pytest.approx(float(value), abs=1e-12)
    assert cosine(a, scale * a) == pytest.approx(1.0, abs=1e-12)


def test_a_zero_vector_has_no_cosine() -> None:
    a = np.array([[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(cosine(a, np.ones((2, 2)))[0], np.nan)


def test_a_difference_of_rounding_is_exactly_zero() -> None:
    a = np.array([[1e4, 1e-2], [1e4, 1e-2]])
    b = np.array([[1e4 * (1 + 2e-16), 1e-2], [1e4, 2e-2]])
    np.testing.assert_array_equal(difference(a, b), [[0.0, 0.0], [0.0, -1e-2]])
