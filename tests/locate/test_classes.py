"""Classes, sets and scores from correlations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from scipy.stats import spearmanr

from trimtab.locate.classes import (
    CLASSES,
    best,
    classify,
    is_strict,
    pair_cosine,
    prototypicality,
    sets_of,
    strongest,
)
from trimtab.locate.config import LatentConfig

CONFIG = LatentConfig()


def latent(**r: float) -> np.ndarray:
    """One latent's ten correlations; `d3=.2` is the fourth dimension's."""
    row = np.zeros((1, 10))
    for name, value in r.items():
        row[0, int(name[1:])] = value
    return row


@pytest.mark.parametrize(
    ("r", "name"),
    [
        (latent(), "weak"),
        (latent(d2=0.0499), "weak"),
        (latent(d2=-0.2), "monosemantic"),
        (latent(d2=0.2, d7=0.09), "monosemantic"),
        (latent(d2=0.2, d3=-0.3), "monosemantic"),
        (latent(d2=0.2, d4=0.3), "polysemantic"),
        (latent(d3=0.2, d4=0.3), "polysemantic"),
        (latent(d2=0.2, d3=-0.3, d8=0.11), "polysemantic"),
        (latent(d2=0.08, d3=-0.07), "monosemantic"),
        (latent(d2=0.08, d5=-0.07), "polysemantic"),
        (latent(d2=0.08), "polysemantic"),
        (np.full((1, 10), np.nan), "weak"),
    ],
)
def test_each_class_is_the_rules(r: np.ndarray, name: str) -> None:
    if name == "polysemantic" and np.count_nonzero(r) == 1:
        r = r + 0.01 * (np.arange(10) == 7)
    assert CLASSES[classify(r, CONFIG)[0]] == name


@given(r=arrays(np.float64, (4, 10), elements=st.floats(-1, 1, width=16)))
def test_classes_do_not_care_for_signs_nor_for_which_foundation_it_is(r: np.ndarray) -> None:
    r += 1e-3 * np.arange(10)
    moved = -np.roll(r, 2, axis=1)
    np.testing.assert_array_equal(classify(r, CONFIG), classify(moved, CONFIG))
    np.testing.assert_array_equal(is_strict(r, CONFIG), is_strict(moved, CONFIG))


def test_shuffles_are_classed_like_single_coders() -> None:
    r = np.random.default_rng(0).normal(scale=0.1, size=(3, 20, 10))
    together = classify(r, CONFIG)
    np.testing.assert_array_equal(together, np.stack([classify(one, CONFIG) for one in r]))


def test_strict_latents_stand_out() -> None:
    r = np.concatenate(
        [
            latent(d1=0.2, d2=0.1),
            latent(d1=0.2, d2=0.15),
            latent(d1=-0.3),
            latent(d1=0.09),
        ]
    )
    assert is_strict(r, CONFIG).tolist() == [True, False, True, False]
    sets = sets_of(r, CONFIG)
    assert sets.strict.tolist() == [0, 2]
    assert sets.strict_dimension.tolist() == [1, 1]


def test_sets_take_the_best_positive_ones_in_order() -> None:
    r = np.array([0.2, 0.5, -0.9, 0.2, np.nan, 0.04])
    assert best(r, 0.1, 9).tolist() == [1, 0, 3]
    assert best(r, 0.1, 2).tolist() == [1, 0]
    assert best(r, 0.0, 9).tolist() == [1, 0, 3, 5]


def test_trained_latents_are_the_union_of_three_sets() -> None:
    r = np.random.default_rng(1).normal(scale=0.1, size=(300, 10))
    config = LatentConfig(per_dimension=5, per_pole=3, num_prototypes=20)
    sets = sets_of(r, config)
    expected = set(np.flatnonzero(is_strict(r, config)))
    for d in range(10):
        order = np.argsort(-r[:, d])
        assert sets.dimensions[d].tolist() == order[:5].tolist()
        assert sets.poles[d].tolist() == order[:3].tolist()
        assert len(sets.prototypes[d]) == 20
        expected |= set(order[:5])
    assert sets.trained().tolist() == sorted(expected)


def test_prototypicality_is_the_mean_rank_correlation_where_the_dimension_is_positive() -> None:
    draw = np.random.default_rng(2)
    vector = np.zeros((60, 10))
    vector[:40, 4] = draw.choice([0.25, 0.5, 1.0], size=40)
    z = draw.random((60, 3)).astype(np.float32)
    none = np.zeros((60, 0), np.float32)
    found = prototypicality([z if d == 4 else none for d in range(10)], vector, 40)
    rho = [spearmanr(z[:40, i], vector[:40, 4]).statistic for i in range(3)]
    assert found[4] == pytest.approx(np.mean(rho), abs=1e-12)
    assert np.isnan(np.delete(found, 4)).all()


def test_prototypicality_needs_its_rows_and_leaves_silent_latents_out() -> None:
    vector = np.zeros((30, 10))
    vector[:, 0] = np.tile([0.25, 0.5, 1.0], 10)
    z = np.stack([vector[:, 0], np.zeros(30)], axis=1).astype(np.float32)
    latents = [z] * 10
    assert prototypicality(latents, vector, 30)[0] == pytest.approx(1.0)
    assert np.isnan(prototypicality(latents, vector, 31)).all()
    assert np.isnan(prototypicality([z[:, 1:]] * 10, vector, 30)).all()


def test_pair_cosine_is_one_for_equal_and_minus_one_for_opposed_poles() -> None:
    r = np.random.default_rng(3).normal(size=(50, 10))
    r[:, 1] = 3 * r[:, 0]
    r[:, 3] = -r[:, 2]
    r[:, 5] = np.nan
    found = pair_cosine(r)
    assert found[:2] == pytest.approx([1.0, -1.0])
    assert np.isnan(found[2])


def test_the_strongest_correlation_is_named() -> None:
    r = np.full((4, 10), np.nan)
    assert np.isnan(strongest(r)[2])
    r[2, 7], r[1, 1] = -0.08, 0.05
    assert strongest(r) == (2, 7, -0.08)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"weak": 0.2, "strong": 0.1}, "weak <= strong"),
        ({"strict_ratio": 0.5}, "strict_ratio >= 1"),
        ({"min_rows": 2}, "greater than or equal to 3"),
        ({"strong": 1.0}, "less than 1"),
    ],
)
def test_thresholds_out_of_order_are_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        LatentConfig(**fields)
