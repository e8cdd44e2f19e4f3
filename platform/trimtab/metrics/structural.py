"""Structural indifference: do the clusters a model forms follow moral lines?

Centred activations, reduced by PCA to 95 % of their variance, clustered by HDBSCAN; the clusters
are compared with polarity (3 groups), foundation (5) and both together (15) by ARI, NMI,
homogeneity, completeness and V-measure. Agreement is over the rows that are not noise, and rises
as noise rises: never show it without the noise ratio. With no cluster at all there is no agreement
to speak of, and noise is 1.

`min_samples` counts as the paper's `hdbscan` package does, a point not among its own neighbours;
scikit-learn counts it, so 20 here is 21 there. UMAP is for pictures and not here.

Memory and time: keeps all rows (see `rows`), centres them in float64 (534 MB at 16k x 4096), and
decomposes their covariance, or with more columns than rows the rows themselves: O(n d^2), the exact
PCA that the full SVD gives, four times faster at 4,000 x 1,024. HDBSCAN compares all pairs:
`algorithm` says how. 16,315 rows of 4,096 on two cores: 33 s, 5.2 GB at the peak.

Li, Teng and Wang 2026, arXiv 2603.15615, "Structural indifference"; docs: METHODS 1.4.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int, Int64
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA
from sklearn.metrics import (
    adjusted_rand_score,
    homogeneity_completeness_v_measure,
    normalized_mutual_info_score,
)

from trimtab.core.names import AGREEMENTS, GROUPINGS, STRUCTURAL
from trimtab.core.poles import POLARITIES
from trimtab.core.rows import Labels
from trimtab.metrics.defined import defined
from trimtab.metrics.rows import KeepsRows, KeptRows


class Clusters(NamedTuple):
    """The clusters of one layer and what they agree with."""

    cluster: Int64[np.ndarray, " n"]
    """Each row's cluster from 0, or -1 for noise; rows sorted by their index."""
    components: int
    """Principal components that were kept; 0 where nothing varies."""
    agreement: Float64[np.ndarray, "5 3"]
    """`AGREEMENTS` by `GROUPINGS`, over rows that are not noise; NaN without clusters."""

    @property
    def clusters(self) -> int:
        """How many clusters there are, noise not counted."""
        return int(self.cluster.max(initial=-1)) + 1

    @property
    def noise(self) -> float:
        """Share of rows in no cluster; NaN without rows."""
        return float((self.cluster < 0).mean()) if len(self.cluster) else float("nan")


@dataclass(frozen=True)
class Structural(KeepsRows):
    """Folds rows into clusters and their agreement with moral groupings."""

    min_cluster_size: int = 100
    """Fewest rows of a cluster; >= 2. Small subsets need less."""
    min_samples: int = 20
    """Neighbours that make a point dense, itself not counted; >= 1."""
    variance: float = 0.95
    """Share of the variance that the principal components must keep; in (0, 1)."""

    algorithm: Literal["brute", "kd_tree"] = "brute"
    """Same clusters, other costs: brute holds 16 n^2 bytes (4.3 GB at 16k rows), kd_tree only the
    rows, but takes nine times as long at 4,000 x 400, as trees do not prune in many dimensions."""

    def finish(self, state: KeptRows) -> Clusters:
        """Reduces, clusters, compares."""
        x, labels = state.in_order()
        reduced = principal_components(x, self.variance)
        cluster = self._cluster(reduced)
        return Clusters(cluster, reduced.shape[1], agreement(cluster, labels))

    def _cluster(self, x: Float[np.ndarray, "n components"]) -> Int64[np.ndarray, " n"]:
        if x.shape[1] == 0 or len(x) < max(self.min_cluster_size, self.min_samples + 1):
            return np.full(len(x), -1)
        hdbscan = HDBSCAN(
            min_cluster_size=self.min_cluster_size,
            min_samples=self.min_samples + 1,
            metric="euclidean",
            algorithm=self.algorithm,
            n_jobs=1,
            copy=True,  # pyright: ignore[reportArgumentType]: annotated by its default, "warn"
        )
        return hdbscan.fit_predict(x).astype(np.int64)


def principal_components(
    x: Float[np.ndarray, "n d_model"], variance: float
) -> Float64[np.ndarray, "n components"]:
    """The centred rows in as few principal components as keep this share of the variance.

    Rows that do not vary have none.
    """
    if not len(x) or not np.ptp(x, axis=0).any():
        return np.zeros((len(x), 0))
    centred = x - x.mean(axis=0, dtype=np.float64)
    solver = "covariance_eigh" if len(x) > x.shape[1] else "full"
    return PCA(n_components=variance, svd_solver=solver).fit_transform(centred)


def agreement(cluster: Int[np.ndarray, " n"], labels: Labels) -> Float64[np.ndarray, "5 3"]:
    """`AGREEMENTS` by `GROUPINGS` over the rows that are in a cluster; NaN if none is."""
    inside = cluster >= 0
    if not inside.any():
        return np.full((len(AGREEMENTS), len(GROUPINGS)), np.nan)
    cluster, labels = cluster[inside], labels.take(inside)
    both = len(POLARITIES) * labels.foundation + labels.polarity
    groupings = (labels.polarity, labels.foundation, both)
    return np.array([_agreements(grouping, cluster) for grouping in groupings]).T


def metrics(result: Clusters) -> dict[str, float]:
    """The measure's values by name."""
    sizes = (result.noise, result.clusters, result.components, len(result.cluster))
    return defined(STRUCTURAL, [*result.agreement.ravel(), *sizes])


def _agreements(truth: Int[np.ndarray, " n"], cluster: Int[np.ndarray, " n"]) -> list[float]:
    ari = adjusted_rand_score(truth, cluster)
    nmi = normalized_mutual_info_score(truth, cluster)
    homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(truth, cluster)
    return [ari, nmi, homogeneity, completeness, v_measure]
