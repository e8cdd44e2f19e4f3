"""Dimensional indifference: can the ten moral dimensions be read off linearly?

A ridge readout of the ten-vector from raw activations, fitted on the training rows, scored by R2
on the test rows, averaged over the outputs that vary there. Below 0 is worse than guessing the
mean. The ridge is the best of a grid on the validation rows; with none of them to choose on, by
generalised cross-validation on the training rows (Golub, Heath and Wahba 1979, equation 1.4).

One exact pass, no rows held: fit and score come from the joint moments of each split. State per
layer: three scatters of d_model^2 float64, 403 MB at 4096 (`state_bytes` says it, so that a driver
can take as many layers at once as fit). 16,315 rows of 4,096 on two cores: 6 s to fold, 32 s to
`finish`, most of it one eigendecomposition.

Adjusted R2 is 1 - (1 - R2)(n - 1) / (n - d - 1) with n = all rows folded in, as the paper's numbers
imply, and is undefined for n <= d + 1. R2 on held-out rows has no optimism left to adjust: it is
here to be compared with the paper. The paper's own optimiser is in `released`.

Li, Teng and Wang 2026, arXiv 2603.15615, "Dimensional indifference"; docs: METHODS 1.4.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from trimtab.core.names import DIMENSIONAL
from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import SPLITS, Rows
from trimtab.metrics.defined import defined, mean_defined
from trimtab.metrics.moments import JointMoments, merge, no_moments, observe, squared_error, varies
from trimtab.metrics.rows import require_finite


@dataclass(frozen=True, eq=False)
class SplitMoments:
    """Moments of each split by itself."""

    splits: tuple[JointMoments, JointMoments, JointMoments]
    """In the order of `SPLITS`."""


class Readout(NamedTuple):
    """A linear readout and how well it reads."""

    weights: Float[np.ndarray, "d_model 10"]
    """Prediction = x weights + intercept. Zero where nothing could be fitted."""
    intercept: Float[np.ndarray, "10"]
    """The other half of the prediction."""
    r2_pole: Float64[np.ndarray, "10"]
    """R2 of each output on the test rows; NaN where it is constant there."""
    rows: int
    """All rows, in whatever split: the n of adjusted R2."""
    ridge: float
    """Penalty over the mean eigenvalue of the training scatter; NaN where none was chosen."""
    penalty: float
    """The penalty itself: what minimises |y - x w|^2 + penalty |w|^2. NaN as above."""

    @property
    def r2(self) -> float:
        """Mean of the R2 that are defined; NaN if none is."""
        return mean_defined(self.r2_pole)

    @property
    def r2_adjusted(self) -> float:
        """See the module; NaN for n <= d + 1."""
        spare = self.rows - len(self.weights) - 1
        return 1 - (1 - self.r2) * (self.rows - 1) / spare if spare > 0 else float("nan")


@dataclass(frozen=True)
class Moments:
    """Folds rows into a ridge readout."""

    ridges: tuple[float, ...] = tuple(10.0**k for k in range(3, -10, -1))
    """Penalties to choose from, as multiples of the training scatter's mean eigenvalue; > 0.

    Of equally good ones the first is taken, so the strongest stands first.
    """

    def zero(self) -> SplitMoments:
        """No rows."""
        none = no_moments(NUM_POLES)
        return SplitMoments((none, none, none))

    def update(self, state: SplitMoments, rows: Rows) -> SplitMoments:
        """Adds rows.

        Raises:
            ActivationError: an activation is NaN or infinite.
        """
        require_finite(rows)
        of_split = [rows.labels.split == split for split in range(len(SPLITS))]
        train, validation, test = (observe(rows.x[s], rows.labels.vector[s]) for s in of_split)
        return self.merge(state, SplitMoments((train, validation, test)))

    def merge(self, a: SplitMoments, b: SplitMoments) -> SplitMoments:
        """The moments of both."""
        train, validation, test = map(merge, a.splits, b.splits)
        return SplitMoments((train, validation, test))

    def finish(self, state: SplitMoments) -> Readout:
        """Fits on train, chooses on validation, scores on test."""
        train, validation, test = state.splits
        rows = sum(split.count for split in state.splits)
        if not varies(train):
            return unfitted(max(split.sxx.shape[0] for split in state.splits), rows)
        spectrum = _spectrum(train)
        fits = [_fit(train, spectrum, ridge) for ridge in self.ridges]
        scores = np.array([mean_defined(_r2(validation, fit)) for fit in fits])
        if np.isnan(scores).all():
            scores = np.array([-_cross_validation(train, spectrum, fit) for fit in fits])
        best = fits[int(np.argmax(scores))]
        r2 = _r2(test, best)
        return Readout(best.weights, best.intercept, r2, rows, best.ridge, best.penalty)


def state_bytes(d_model: int) -> int:
    """Bytes of a state that has seen all three splits. Updating needs one third more."""
    floats = d_model**2 + d_model * (1 + NUM_POLES) + 2 * NUM_POLES
    return len(SPLITS) * floats * np.dtype(np.float64).itemsize


def r2(
    squared_error: Float[np.ndarray, "10"], scatter: Float[np.ndarray, "10"]
) -> Float64[np.ndarray, "10"]:
    """1 - squared error / scatter of the target; NaN for a target that does not vary."""
    undefined = np.full(NUM_POLES, np.nan)
    return 1 - np.divide(squared_error, scatter, out=undefined, where=scatter > 0)


def unfitted(d_model: int, rows: int) -> Readout:
    """What there is to say when there are too few rows, or nothing varies."""
    nan = float("nan")
    nothing = np.zeros(NUM_POLES)
    weights = np.zeros((d_model, NUM_POLES))
    return Readout(weights, nothing, np.full(NUM_POLES, np.nan), rows, nan, nan)


def metrics(result: Readout) -> dict[str, float]:
    """The measure's values by name."""
    values = [result.r2, result.r2_adjusted, *result.r2_pole]
    return defined(DIMENSIONAL, [*values, result.rows, len(result.weights), result.ridge])


class _Spectrum(NamedTuple):
    """The training scatter's eigendecomposition."""

    values: Float64[np.ndarray, " d_model"]
    vectors: Float64[np.ndarray, "d_model d_model"]
    targets: Float64[np.ndarray, "d_model 10"]
    """x's covariation with y, seen from the eigenvectors."""
    scale: float
    """Mean eigenvalue."""


class _Fit(NamedTuple):
    """A readout at one ridge."""

    weights: Float64[np.ndarray, "d_model 10"]
    intercept: Float64[np.ndarray, "10"]
    ridge: float
    penalty: float


def _spectrum(train: JointMoments) -> _Spectrum:
    values, vectors = np.linalg.eigh(train.sxx)
    values = np.maximum(values, 0.0)
    return _Spectrum(values, vectors, vectors.T @ train.sxy, scale=float(values.mean()))


def _fit(train: JointMoments, spectrum: _Spectrum, ridge: float) -> _Fit:
    penalty = ridge * spectrum.scale
    weights = spectrum.vectors @ (spectrum.targets / (spectrum.values + penalty)[:, None])
    return _Fit(weights, train.mean_y - train.mean_x @ weights, ridge, penalty)


def _r2(moments: JointMoments, fit: _Fit) -> Float64[np.ndarray, "10"]:
    if not moments.count:
        return np.full(NUM_POLES, np.nan)
    return r2(squared_error(moments, fit.weights, fit.intercept), moments.syy)


def _cross_validation(train: JointMoments, spectrum: _Spectrum, fit: _Fit) -> float:
    """Generalised cross-validation: the share of y left over, per squared share of free rows."""
    used = 1 + (spectrum.values / (spectrum.values + fit.penalty)).sum()
    free = 1 - used / train.count
    unexplained = 1 - mean_defined(_r2(train, fit))
    return float(unexplained / free**2) if free > 0 else float("inf")
