from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import Labels, Rows
from trimtab.metrics.categorical import Categorical, Centres, metrics, typical


def centres_of(rows: Rows) -> Categorical:
    fold = Centres()
    return fold.finish(fold.update(fold.zero(), rows))


def test_centres_and_cosines_match_a_plain_computation(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows()
    x = rows.x.astype(np.float64) - rows.x.astype(np.float64).mean(axis=0)
    own = [(rows.labels.pole == p) & (rows.labels.typicality == 1) for p in range(NUM_POLES)]
    centres = np.stack([x[mask].mean(axis=0) for mask in own])
    cosines = cosine_similarity(centres)
    result = centres_of(rows)
    np.testing.assert_allclose(result.centres, centres, atol=1e-12)
    np.testing.assert_allclose(result.matrix, cosines, atol=1e-12)
    np.testing.assert_array_equal(result.counts, [mask.sum() for mask in own])
    values = metrics(result)
    assert values["categorical/cosine/loyalty-betrayal"] == pytest.approx(cosines[4, 5])
    assert values["categorical/off_diagonal"] == pytest.approx((cosines.sum() - 10) / 90)
    opposites = [cosines[2 * f, 2 * f + 1] for f in range(5)]
    assert values["categorical/cosine/mean"] == pytest.approx(np.mean(opposites))


def test_planted_opposite_poles_have_cosine_minus_one_and_indifferent_ones_plus_one(
    make_labels: Callable[..., Labels],
) -> None:
    labels = make_labels(400)
    directions = np.eye(5)[labels.foundation]
    signed = directions * np.where(typical(labels), labels.polarity, 0)[:, None]
    apart = Rows(np.hstack([signed, -signed]), labels)
    centred = Rows(np.vstack([apart.x, -apart.x]), type(labels).concatenate([labels] * 2))
    centred.labels.typicality[400:] = 0.5
    assert metrics(centres_of(centred))["categorical/cosine/mean"] == pytest.approx(-1.0)
    alike = Rows(np.abs(centred.x) * np.sign(centred.x.sum(1) + 1)[:, None], centred.labels)
    alike.x[400:] *= -1
    assert metrics(centres_of(alike))["categorical/cosine/mean"] == pytest.approx(1.0)


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 9))
def test_cosines_ignore_rotation_scale_and_a_shift_of_all_rows(
    scale: float, seed: int, make_rows: Callable[..., Rows]
) -> None:
    rows = make_rows(120, 6)
    draw = np.random.default_rng(seed)
    rotation = np.linalg.qr(draw.normal(size=(6, 6)))[0]
    moved = Rows(scale * rows.x.astype(np.float64) @ rotation + draw.normal(size=6), rows.labels)
    np.testing.assert_allclose(centres_of(rows).matrix, centres_of(moved).matrix, atol=1e-9)


def test_a_pole_without_typical_rows_is_left_out_of_every_mean(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows()
    rows.labels.typicality[rows.labels.pole == 3] = 0.75
    result = centres_of(rows)
    assert np.isnan(result.centres[3]).all()
    assert np.isfinite(result.centres[np.arange(10) != 3]).all()
    values = metrics(result)
    assert "categorical/cosine/fairness-cheating" not in values
    rest = result.matrix[np.ix_([0, 4, 6, 8], [1, 5, 7, 9])].diagonal()
    assert values["categorical/cosine/mean"] == pytest.approx(rest.mean())


def test_massive_activations_keep_their_digits_in_batches_of_float32(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows(2000, 4)
    x = rows.x.astype(np.float64)
    x[:, 0] += 1e4
    shifted = Rows(x.astype(np.float32), rows.labels)
    plain = Rows(shifted.x.astype(np.float64), rows.labels)
    plain.x[:, 0] -= 1e4
    np.testing.assert_allclose(centres_of(shifted).matrix, centres_of(plain).matrix, atol=1e-9)
