"""Which rows and pairs an alignment draws."""

from dataclasses import replace

import numpy as np
import pytest
from planted import planted_labels

from trimtab.core.rows import Labels
from trimtab.core.seeds import Seed
from trimtab.edits.align_config import Sampling
from trimtab.edits.align_sampling import pairs_of, row_weights


def rows_of(typicality: list[float], polarity: list[int]) -> Labels:
    some = planted_labels(len(polarity))
    return replace(some, typicality=np.array(typicality), polarity=np.array(polarity))


def test_weights_are_those_of_typicality_and_of_the_rarer_polarity() -> None:
    labels = rows_of(
        [0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 0.25, 1.0], [0, 1, 1, 1, 1, 1, 1, -1, -1]
    )
    expected = np.array([0.3, 1, 1, 1.5, 1.5, 2, 2, 3 * 1, 3 * 2])
    found = row_weights(labels, Sampling())
    np.testing.assert_allclose(found, expected / expected.sum())


def test_the_rarer_polarity_counts_in_proportion_up_to_the_limit() -> None:
    labels = rows_of([1.0] * 5, [1, 1, 1, -1, -1])
    weights = row_weights(labels, Sampling())
    assert weights[3] / weights[0] == pytest.approx(1.5)
    one_sided = row_weights(rows_of([1.0] * 3, [1, 1, 1]), Sampling())
    np.testing.assert_allclose(one_sided, 1 / 3)


def test_pairs_are_disjoint_halves_where_there_are_rows_for_it() -> None:
    vector = np.zeros((300, 10))
    vector[50:260, 6] = 0.5
    i, j = pairs_of(vector, 100, 16, Seed(0).numpy())[6]
    assert len(set(i) | set(j)) == 200
    assert set(np.concatenate([i, j])) <= set(range(50, 260))


def test_few_rows_are_drawn_with_replacement_and_too_few_are_skipped() -> None:
    vector = np.zeros((60, 10))
    vector[:30, 2], vector[:15, 4] = 1.0, 1.0
    pairs = pairs_of(vector, 100, 16, Seed(0).numpy())
    assert [len(i) for i, _ in pairs] == [0, 0, 100, 0, 0, 0, 0, 0, 0, 0]
    assert set(pairs[2][0]) <= set(range(30))


def test_the_same_seed_draws_the_same_pairs() -> None:
    vector = np.random.default_rng(0).random((50, 10))
    a, b = (pairs_of(vector, 10, 4, Seed(2).numpy()) for _ in range(2))
    np.testing.assert_array_equal(np.array(a), np.array(b))
