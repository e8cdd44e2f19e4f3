"""Categorical indifference: does a model tell a virtue from its vice?

For each foundation and layer, the cosine between the centre of the typical virtuous actions and
the centre of the typical vicious ones, after removing the mean of all actions. 1 means the model
does not separate them; 0 or less means that it does. Also all ten poles against each other.

One exact pass: centring is linear, so sums and counts suffice and `finish` subtracts the mean.
State per layer: 11 x d_model float64 (360 kB at 4096). Holds no rows.

Li, Teng and Wang 2026, arXiv 2603.15615, "Categorical indifference"; docs: METHODS 1.4.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from trimtab.core.names import CATEGORICAL
from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import Labels, Rows
from trimtab.metrics.defined import defined, mean_defined
from trimtab.metrics.rows import require_finite
from trimtab.metrics.vectors import cosine, difference


@dataclass(frozen=True, eq=False)
class CentreSums:
    """Sums over the rows seen so far."""

    sums: Float64[np.ndarray, "10 d_model"]
    """Of each pole's typical rows; the width is 0 while there are no rows."""
    counts: Int64[np.ndarray, "10"]
    """Typical rows of each pole."""
    total: Float64[np.ndarray, " d_model"]
    """Sum over all rows, typical or not."""
    rows: int
    """All rows."""


class Categorical(NamedTuple):
    """Where the ten poles lie at one layer, and how they lie to each other."""

    centres: Float64[np.ndarray, "10 d_model"]
    """Mean of each pole's centred typical rows; NaN for a pole that has none."""
    counts: Int64[np.ndarray, "10"]
    """Typical rows of each pole."""
    mean: Float64[np.ndarray, " d_model"]
    """Mean of all rows: what centring subtracts; NaN without rows."""
    matrix: Float64[np.ndarray, "10 10"]
    """Cosines between the centres; NaN where one is missing or lies at the mean."""
    opposites: Float64[np.ndarray, "5"]
    """Cosine of each foundation's virtue with its vice, from the matrix."""


@dataclass(frozen=True)
class Centres:
    """Folds rows into the centres of the ten poles."""

    def zero(self) -> CentreSums:
        """No rows."""
        return CentreSums(np.zeros((NUM_POLES, 0)), np.zeros(NUM_POLES, np.int64), np.zeros(0), 0)

    def update(self, state: CentreSums, rows: Rows) -> CentreSums:
        """Adds rows.

        Raises:
            ActivationError: an activation is NaN or infinite.
        """
        require_finite(rows)
        pole = np.where(typical(rows.labels), rows.labels.pole, -1)
        sums = [rows.x[pole == p].sum(axis=0, dtype=np.float64) for p in range(NUM_POLES)]
        seen = CentreSums(
            sums=np.stack(sums),
            counts=np.bincount(pole[pole >= 0], minlength=NUM_POLES).astype(np.int64),
            total=rows.x.sum(axis=0, dtype=np.float64),
            rows=len(rows.labels),
        )
        return self.merge(state, seen)

    def merge(self, a: CentreSums, b: CentreSums) -> CentreSums:
        """The sums of both."""
        if not a.rows or not b.rows:
            return a if a.rows else b
        return CentreSums(a.sums + b.sums, a.counts + b.counts, a.total + b.total, a.rows + b.rows)

    def finish(self, state: CentreSums) -> Categorical:
        """Centres, then their cosines."""
        mean = state.total / state.rows if state.rows else np.full_like(state.total, np.nan)
        centres = np.full_like(state.sums, np.nan)
        has = state.counts > 0
        centres[has] = difference(state.sums[has] / state.counts[has, None], mean)
        matrix = cosine(centres[:, None], centres[None, :])
        opposites = np.diagonal(matrix, 1)[::2].copy()
        return Categorical(centres, state.counts, mean, matrix, opposites)


def typical(labels: Labels) -> Bool[np.ndarray, " n"]:
    """The prototypes: very good or very bad acts about which nearly everyone agrees."""
    return (labels.pole >= 0) & (labels.typicality == 1.0)


def metrics(result: Categorical) -> dict[str, float]:
    """The measure's values by name; means are over the cosines that are defined."""
    off_diagonal = result.matrix[~np.eye(NUM_POLES, dtype=bool)]
    values = [mean_defined(result.opposites), *result.opposites, mean_defined(off_diagonal)]
    return defined(CATEGORICAL, values)
