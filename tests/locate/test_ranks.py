"""Spearman's rho from active entries alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from trimtab.locate.ranks import Entries, ranges, spearman

LEVELS = np.array([0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0])


def of_dense(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    parts = [Entries.of(z[i : i + 7], i, 0) for i in range(0, len(z), 7)]
    return spearman(Entries.concatenate(parts), z.shape[1], y)


def scipys(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    found = np.full((z.shape[1], y.shape[1]), np.nan)
    for i, j in np.ndindex(*found.shape):
        if np.ptp(z[:, i]) and np.ptp(y[:, j]):
            found[i, j] = spearmanr(z[:, i], y[:, j]).statistic
    return found


@pytest.mark.parametrize("silent", [0.0, 0.5, 0.95])
def test_ranks_are_scipys_however_many_rows_are_silent(silent: float) -> None:
    draw = np.random.default_rng(0)
    z = np.where(draw.random((200, 12)) < silent, 0.0, draw.random((200, 12)))
    y = LEVELS[draw.integers(7, size=(200, 4))]
    np.testing.assert_allclose(of_dense(z, y), scipys(z, y), rtol=0, atol=1e-12)


@given(
    z=arrays(np.float64, (15, 3), elements=st.sampled_from([0.0, 0.0, 1.0, 2.0, 2.5])),
    y=arrays(np.float64, (15, 2), elements=st.sampled_from(LEVELS.tolist())),
)
def test_ties_constants_and_silence_are_scipys(z: np.ndarray, y: np.ndarray) -> None:
    np.testing.assert_allclose(of_dense(z, y), scipys(z, y), rtol=0, atol=1e-12)


def test_a_growing_function_of_a_latent_changes_no_bit() -> None:
    draw = np.random.default_rng(1)
    z = draw.random((80, 5)) * (draw.random((80, 5)) < 0.4)
    y = LEVELS[draw.integers(7, size=(80, 2))]
    np.testing.assert_array_equal(of_dense(z, y), of_dense(z**3, y))


def test_a_latent_that_was_never_active_is_undefined() -> None:
    z = np.zeros((30, 2))
    z[3, 1] = 1.0
    found = of_dense(z, np.linspace(0, 1, 30)[:, None])
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_ranges_cover_every_latent_once_within_the_limit() -> None:
    active = np.array([5, 5, 90, 1, 1, 1, 40, 0, 70])
    cut = list(ranges(active, most=50))
    assert [i for part in cut for i in range(part.start, part.stop)] == list(range(9))
    assert all(active[part].sum() <= 50 or part.stop - part.start == 1 for part in cut)
