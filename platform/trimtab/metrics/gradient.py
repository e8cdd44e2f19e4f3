"""Gradient indifference: does a model tell a grave wrong from a small one?

For each row, the cosine of its centred activation with the centre of its pole (a neutral row: of
both poles of its foundation). How well that cosine follows the row's typicality (0 for neutral) is
the measure: Spearman and Pearson, per pole and over all poles together. 0 is indifference.

A second pass, because it needs the centres. By default a typical row is scored against its pole's
centre computed without that row, exactly: (n c - x) / (n - 1); otherwise a row helps to build what
it is compared with, and small poles look well ordered for no other reason. `leave_one_out=False`
is what the paper's code does, and it is also right where the centres come from other rows than
those scored (a held-out half). Centring still uses the mean of all rows.

State: one float per scored row with its three labels, 32 bytes; it holds no activations.

Li, Teng and Wang 2026, arXiv 2603.15615, "Gradient indifference"; docs: METHODS 1.4.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from trimtab.core.names import GRADIENT
from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import Rows
from trimtab.metrics.categorical import Categorical, typical
from trimtab.metrics.correlation import pearson, spearman
from trimtab.metrics.defined import defined, mean_defined
from trimtab.metrics.rows import require_finite
from trimtab.metrics.vectors import cosine, difference


@dataclass(frozen=True, eq=False)
class Scores:
    """Scored (row, pole) pairs: a neutral row makes two, any other row one."""

    index: Int64[np.ndarray, " pairs"]
    """The row's position in the scenario table."""
    pole: Int64[np.ndarray, " pairs"]
    """The pole it was scored against."""
    typicality: Float64[np.ndarray, " pairs"]
    """The row's own; 0 for a neutral row."""
    cosine: Float64[np.ndarray, " pairs"]
    """With the pole's centre; never NaN."""

    @classmethod
    def concatenate(cls, parts: list["Scores"]) -> "Scores":
        """One table from at least one, in the order given."""
        columns = [f.name for f in fields(cls)]
        return cls(**{c: np.concatenate([getattr(part, c) for part in parts]) for c in columns})

    def take(self, which: np.ndarray) -> "Scores":
        """The pairs that an index array or a boolean mask picks."""
        return type(self)(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


class Association(NamedTuple):
    """How the cosine follows typicality; NaN below three pairs or where either is constant."""

    poles: Float64[np.ndarray, "10"]
    """Over each pole's rows and its foundation's neutral rows."""
    pooled: float
    """Over all pairs of all poles."""


class GradientResult(NamedTuple):
    """The measure at one layer."""

    spearman: Association
    """Of ranks: does a graver act lie nearer to the centre?"""
    pearson: Association
    """Linear."""
    scores: Scores
    """What they were computed from, sorted by row and pole; for figures."""


@dataclass(frozen=True, eq=False)
class Gradient:
    """Folds rows into the association between typicality and nearness to a pole's centre.

    A row is not scored where its pole has no centre, where it lies exactly at the mean, or where
    it is the only typical row of its pole and is itself left out.
    """

    centres: Categorical
    """From a first pass: over the same rows, or (without leave-one-out) over others."""
    leave_one_out: bool = True
    """Score a typical row against its pole's centre without it; False is as released."""

    def zero(self) -> Scores:
        """No pairs."""
        none = np.zeros(0, np.int64)
        return Scores(none, none, np.zeros(0), np.zeros(0))

    def update(self, state: Scores, rows: Rows) -> Scores:
        """Scores rows.

        Raises:
            ActivationError: an activation is NaN or infinite.
        """
        require_finite(rows)
        if not len(rows.labels):
            return state
        scored = [self._score(rows, pole) for pole in range(NUM_POLES)]
        return Scores.concatenate([state, *scored])

    def merge(self, a: Scores, b: Scores) -> Scores:
        """The pairs of both."""
        return Scores.concatenate([a, b])

    def finish(self, state: Scores) -> GradientResult:
        """Correlations over the pairs in a fixed order."""
        scores = state.take(np.lexsort((state.pole, state.index)))
        return GradientResult(_associate(spearman, scores), _associate(pearson, scores), scores)

    def _score(self, rows: Rows, pole: int) -> Scores:
        labels = rows.labels
        own = (labels.pole == pole) | ((labels.pole < 0) & (labels.foundation == pole // 2))
        labels = labels.take(own)
        x = difference(rows.x[own], self.centres.mean)
        cosines = cosine(x, self._references(x, typical(labels), pole))
        scores = Scores(
            labels.index.astype(np.int64),
            np.full(len(labels), pole),
            labels.typicality.astype(np.float64),
            cosines,
        )
        return scores.take(~np.isnan(cosines))

    def _references(
        self,
        x: Float64[np.ndarray, "n d_model"],
        is_typical: Bool[np.ndarray, " n"],
        pole: int,
    ) -> Float64[np.ndarray, "n d_model"]:
        """What each centred row of `x` is compared with; NaN where there is nothing."""
        centre, count = self.centres.centres[pole], self.centres.counts[pole]
        references = np.tile(centre, (len(x), 1))
        if self.leave_one_out and is_typical.any():
            others = difference(np.tile(count * centre, (is_typical.sum(), 1)), x[is_typical])
            references[is_typical] = others / (count - 1) if count > 1 else np.nan
        return references


def metrics(result: GradientResult) -> dict[str, float]:
    """The measure's values by name; `mean` is over the poles where it is defined."""
    statistics = (result.spearman, result.pearson)
    values = [v for s in statistics for v in (mean_defined(s.poles), s.pooled, *s.poles)]
    return defined(GRADIENT, values)


def _associate(statistic: Callable[[np.ndarray, np.ndarray], float], scores: Scores) -> Association:
    of_pole = [scores.take(scores.pole == pole) for pole in range(NUM_POLES)]
    poles = np.array([statistic(s.typicality, s.cosine) for s in of_pole])
    return Association(poles, statistic(scores.typicality, scores.cosine))
