from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import Labels, Rows
from trimtab.metrics.categorical import Categorical, Centres, typical
from trimtab.metrics.gradient import Gradient, GradientResult, metrics


def first_pass(rows: Rows) -> Categorical:
    fold = Centres()
    return fold.finish(fold.update(fold.zero(), rows))


def gradient_of(rows: Rows, leave_one_out: bool = True) -> GradientResult:
    fold = Gradient(first_pass(rows), leave_one_out)
    return fold.finish(fold.update(fold.zero(), rows))


def plain_pairs(rows: Rows, pole: int, leave_one_out: bool) -> list[tuple[int, float, float]]:
    """(row, typicality, cosine), one row after the other, each centre averaged anew."""
    labels, x = rows.labels, rows.x.astype(np.float64)
    x = x - x.mean(axis=0)
    builds = typical(labels) & (labels.pole == pole)
    neutral = (labels.pole < 0) & (labels.foundation == pole // 2)
    pairs = []
    for row in np.flatnonzero((labels.pole == pole) | neutral):
        others = builds & (np.arange(len(x)) != row) if leave_one_out else builds
        centre = x[others].mean(axis=0)
        cosine = 1 - scipy.spatial.distance.cosine(x[row], centre)
        pairs.append((row, labels.typicality[row], cosine))
    return pairs


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_correlations_match_scipy_on_cosines_computed_row_by_row(
    leave_one_out: bool, make_rows: Callable[..., Rows]
) -> None:
    rows = make_rows(600)
    values = metrics(gradient_of(rows, leave_one_out))
    pooled = []
    for pole, name in ((0, "care"), (7, "subversion")):
        _, typicality, cosines = zip(*plain_pairs(rows, pole, leave_one_out), strict=True)
        rho = scipy.stats.spearmanr(typicality, cosines).statistic
        r = scipy.stats.pearsonr(typicality, cosines).statistic
        assert values[f"gradient/spearman/{name}"] == pytest.approx(rho, abs=1e-12)
        assert values[f"gradient/pearson/{name}"] == pytest.approx(r, abs=1e-12)
    for pole in range(NUM_POLES):
        pooled += plain_pairs(rows, pole, leave_one_out)
    _, typicality, cosines = zip(*pooled, strict=True)
    rho = scipy.stats.spearmanr(typicality, cosines).statistic
    assert values["gradient/spearman/pooled"] == pytest.approx(rho, abs=1e-12)


def test_a_neutral_row_is_scored_against_both_poles_of_its_foundation(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows()
    scores = gradient_of(rows).scores
    neutral = rows.labels.pole < 0
    pairs = zip(rows.labels.index[neutral], rows.labels.foundation[neutral], strict=True)
    expected = {(index, 2 * f + side) for index, f in pairs for side in (0, 1)}
    scored = scores.take(scores.typicality == 0)
    assert set(zip(scored.index, scored.pole, strict=True)) == expected
    assert len(scored.index) == 2 * neutral.sum()


def test_the_cosine_is_the_planted_one(make_labels: Callable[..., Labels]) -> None:
    labels = make_labels(500)
    typicality = labels.typicality[:, None]
    sign = np.where(labels.polarity < 0, -1, 1)[:, None]
    along = typicality * sign * np.eye(5)[labels.foundation]
    aside = np.sqrt(1 - typicality**2)
    nobody = replace(labels, index=labels.index + 500, typicality=labels.typicality / 2)
    rows = Rows(
        np.vstack([np.hstack([along, aside]), -np.hstack([along, aside])]),
        type(labels).concatenate([labels, nobody]),
    )
    scores = gradient_of(rows).scores
    scores = scores.take(scores.index < 500)
    np.testing.assert_allclose(scores.cosine, scores.typicality, atol=1e-12)


def test_leaving_a_row_out_of_its_centre_removes_the_order_that_noise_seems_to_have(
    make_labels: Callable[..., Labels],
) -> None:
    labels = make_labels(300)
    rows = Rows(np.random.default_rng(3).normal(size=(300, 200)), labels)
    as_released = metrics(gradient_of(rows, leave_one_out=False))["gradient/spearman/mean"]
    corrected = metrics(gradient_of(rows))["gradient/spearman/mean"]
    assert as_released > 0.25
    assert abs(corrected) < 0.1


def test_the_only_typical_row_of_a_pole_is_left_out_and_a_pole_without_one_is_undefined(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows()
    labels = rows.labels
    lonely = np.flatnonzero(typical(labels) & (labels.pole == 1))
    labels.typicality[lonely[1:]] = 0.75
    labels.typicality[labels.pole == 2] = 0.5
    result = gradient_of(rows)
    assert labels.index[lonely[0]] not in result.scores.index
    assert labels.index[lonely[0]] in gradient_of(rows, leave_one_out=False).scores.index
    assert 2 not in result.scores.pole
    assert "gradient/spearman/fairness" not in metrics(result)
    assert "gradient/spearman/harm" in metrics(result)
