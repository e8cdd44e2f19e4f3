from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA

from trimtab.core.names import AGREEMENTS, GROUPINGS
from trimtab.core.rows import Labels, Rows
from trimtab.metrics.structural import (
    Clusters,
    Structural,
    agreement,
    metrics,
    principal_components,
)

SMALL = Structural(min_cluster_size=10, min_samples=4)


def clusters_of(rows: Rows, fold: Structural = SMALL) -> Clusters:
    return fold.finish(fold.update(fold.zero(), rows))


@pytest.fixture
def clustered(make_labels: Callable[..., Labels]) -> Rows:
    """Three clouds by polarity, with some rows far from all of them."""
    labels = make_labels(200)
    draw = np.random.default_rng(0)
    x = 5 * np.eye(3, 6)[labels.polarity + 1] + 1.4 * draw.normal(size=(200, 6))
    x[:20] += 8 * draw.normal(size=(20, 6))
    return Rows(x.astype(np.float32), labels)


@pytest.mark.parametrize("algorithm", ["brute", "kd_tree"])
def test_clusters_and_agreement_match_scikit_learn_step_by_step(
    clustered: Rows, algorithm: Literal["brute", "kd_tree"]
) -> None:
    order = np.argsort(clustered.labels.index)
    x, labels = clustered.x[order], clustered.labels.take(order)
    reduced = PCA(0.95, svd_solver="full").fit_transform(x.astype(np.float64))
    expected = HDBSCAN(min_cluster_size=10, min_samples=5, copy=True).fit_predict(reduced)
    result = clusters_of(clustered, Structural(10, 4, algorithm=algorithm))
    np.testing.assert_array_equal(result.cluster, expected)
    assert result.components == reduced.shape[1]
    inside = expected >= 0
    assert 0 < inside.sum() < 200
    values = metrics(result)
    truth = {
        "polarity": labels.polarity,
        "foundation": labels.foundation,
        "foundation_polarity": 10 * labels.foundation + labels.polarity,
    }
    scores = {
        "ari": reference.adjusted_rand_score,
        "nmi": reference.normalized_mutual_info_score,
        "homogeneity": reference.homogeneity_score,
        "completeness": reference.completeness_score,
        "v_measure": reference.v_measure_score,
    }
    for grouping in GROUPINGS:
        for name in AGREEMENTS:
            score = scores[name](truth[grouping][inside], expected[inside])
            assert values[f"structural/{name}/{grouping}"] == pytest.approx(score)
    assert values["structural/noise"] == pytest.approx(1 - inside.mean())


def test_planted_clusters_by_polarity_agree_with_polarity_only(
    make_labels: Callable[..., Labels],
) -> None:
    labels = make_labels(300)
    draw = np.random.default_rng(1)
    x = 50 * np.eye(3, 6)[labels.polarity + 1] + 0.1 * draw.normal(size=(300, 6))
    values = metrics(clusters_of(Rows(x, labels)))
    assert values["structural/clusters"] == 3
    assert values["structural/noise"] == 0
    assert values["structural/ari/polarity"] == pytest.approx(1.0)
    assert abs(values["structural/ari/foundation"]) < 0.05


@pytest.mark.parametrize("shape", [(60, 12), (12, 60)])
def test_components_are_those_of_the_full_svd_up_to_sign(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(2)
    x = (draw.normal(size=shape) * np.arange(1, shape[1] + 1) ** -0.7 + 100).astype(np.float32)
    got = principal_components(x, 0.9)
    expected = PCA(0.9, svd_solver="full").fit_transform(x.astype(np.float64))
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-9)


def test_without_a_cluster_everything_is_noise_and_nothing_agrees(
    make_labels: Callable[..., Labels],
) -> None:
    labels = make_labels(60)
    x = np.random.default_rng(0).normal(size=(60, 5))
    values = metrics(clusters_of(Rows(x, labels), Structural()))
    assert values["structural/noise"] == 1.0
    assert values["structural/clusters"] == 0
    assert values["structural/rows"] == 60
    assert not any("polarity" in name or "foundation" in name for name in values)


def test_agreement_ignores_what_clusters_are_called(make_labels: Callable[..., Labels]) -> None:
    labels = make_labels(100)
    cluster = np.random.default_rng(0).integers(-1, 3, 100)
    renamed = np.array([2, 0, 1, -1])[cluster]
    np.testing.assert_allclose(agreement(cluster, labels), agreement(renamed, labels), atol=1e-12)
