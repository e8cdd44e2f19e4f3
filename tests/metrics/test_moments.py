import numpy as np

from trimtab.metrics.moments import JointMoments, merge, no_moments, observe, squared_error, varies

DRAW = np.random.default_rng(0)


def in_blocks(x: np.ndarray, y: np.ndarray, size: int) -> JointMoments:
    moments = no_moments(y.shape[1])
    for first in range(0, len(x), size):
        moments = merge(moments, observe(x[first : first + size], y[first : first + size]))
    return moments


def test_blocks_of_any_size_give_numpys_covariance() -> None:
    x, y = DRAW.normal(size=(100, 5)), DRAW.normal(size=(100, 3))
    covariance = 100 * np.cov(np.hstack([x, y]).T, ddof=0)
    for size in (1, 7, 100):
        moments = in_blocks(x, y, size)
        np.testing.assert_allclose(moments.sxx, covariance[:5, :5], atol=1e-11)
        np.testing.assert_allclose(moments.sxy, covariance[:5, 5:], atol=1e-11)
        np.testing.assert_allclose(moments.syy, covariance.diagonal()[5:], atol=1e-11)
        np.testing.assert_allclose(moments.mean_x, x.mean(axis=0), atol=1e-13)


def test_a_massive_offset_costs_no_digits_of_a_small_signal() -> None:
    signal = np.round(DRAW.normal(size=(3000, 4)) * 2**10) / 2**20
    y = DRAW.normal(size=(3000, 2))
    near, far = in_blocks(signal, y, 64), in_blocks(signal + 10_000, y, 64)
    scale = np.abs(near.sxx).max()
    np.testing.assert_allclose(far.sxx, near.sxx, rtol=0, atol=1e-8 * scale)
    raw = (signal + 10_000).T @ (signal + 10_000) - 3000 * 10_000.0**2
    assert np.abs(raw - near.sxx).max() > scale


def test_squared_error_from_moments_is_that_of_the_rows() -> None:
    x, y = DRAW.normal(size=(50, 5)) + 3, DRAW.normal(size=(50, 3))
    weights, intercept = DRAW.normal(size=(5, 3)), DRAW.normal(size=3)
    expected = ((y - x @ weights - intercept) ** 2).sum(axis=0)
    got = squared_error(in_blocks(x, y, 8), weights, intercept)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_only_rounding_does_not_vary() -> None:
    y = np.zeros((30, 2))
    assert not varies(no_moments(2))
    assert not varies(in_blocks(np.full((30, 4), 1234.567), y, 7))
    assert varies(in_blocks(np.full((30, 4), 1234.567) + np.eye(30, 4) * 1e-3, y, 7))
