"""Joint first and second moments of activations x and moral vectors y, mergeable exactly.

Enough to fit a linear readout on some rows and to score it on others without keeping any row.
Everything is centred on the mean of the rows seen so far and merged pairwise, so that a massive
activation of 1e4 beside a signal of 1e-2 costs no digits; raw sums of squares would lose them all.

Memory: x's scatter is d_model^2 float64, 134 MB at 4096; an update or merge makes a second one.
Time: n d_model^2 multiply-adds; each call also writes one scatter, so batches of at least some
hundred rows pay.

Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
variances", equation 2.1b, in matrix form.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from trimtab.metrics.vectors import ROUNDING


@dataclass(frozen=True, eq=False)
class JointMoments:
    """Moments of n pairs (x, y). Without pairs, d_model is 0."""

    count: int
    """n."""
    mean_x: Float64[np.ndarray, " d_model"]
    """Mean of x."""
    mean_y: Float64[np.ndarray, " d_out"]
    """Mean of y."""
    sxx: Float64[np.ndarray, "d_model d_model"]
    """Sum of (x - mean)(x - mean)^T: the scatter."""
    sxy: Float64[np.ndarray, "d_model d_out"]
    """Sum of (x - mean)(y - mean)^T."""
    syy: Float64[np.ndarray, " d_out"]
    """Sum of (y - mean)^2, each output by itself."""


def no_moments(d_out: int) -> JointMoments:
    """The moments of no pairs."""
    none, out = np.zeros(0), np.zeros(d_out)
    return JointMoments(0, none, out, np.zeros((0, 0)), np.zeros((0, d_out)), out)


def observe(x: Float[np.ndarray, "n d_model"], y: Float[np.ndarray, "n d_out"]) -> JointMoments:
    """The moments of these pairs."""
    if not len(x):
        return no_moments(y.shape[1])
    mean_x, mean_y = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    x, y = x - mean_x, y - mean_y
    return JointMoments(len(x), mean_x, mean_y, x.T @ x, x.T @ y, (y * y).sum(axis=0))


def merge(a: JointMoments, b: JointMoments) -> JointMoments:
    """The moments of the pairs of both."""
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    dx, dy = b.mean_x - a.mean_x, b.mean_y - a.mean_y
    weight = a.count * b.count / count
    sxx = np.outer(weight * dx, dx)
    sxx += a.sxx
    sxx += b.sxx
    return JointMoments(
        count=count,
        mean_x=(a.count * a.mean_x + b.count * b.mean_x) / count,
        mean_y=(a.count * a.mean_y + b.count * b.mean_y) / count,
        sxx=sxx,
        sxy=a.sxy + b.sxy + np.outer(weight * dx, dy),
        syy=a.syy + b.syy + weight * dy * dy,
    )


def varies(moments: JointMoments) -> bool:
    """Whether x has any variance but that of rounding."""
    variance = np.trace(moments.sxx) / max(moments.count, 1)
    return bool(variance > ROUNDING**2 * (moments.mean_x @ moments.mean_x))


def squared_error(
    moments: JointMoments,
    weights: Float[np.ndarray, "d_model d_out"],
    intercept: Float[np.ndarray, " d_out"],
) -> Float64[np.ndarray, " d_out"]:
    """Sum over the pairs of (y - x weights - intercept)^2 for each output, up to rounding."""
    offset = moments.mean_y - moments.mean_x @ weights - intercept
    explained = (weights * (moments.sxx @ weights - 2 * moments.sxy)).sum(axis=0)
    return np.maximum(moments.syy + explained + moments.count * offset**2, 0.0)
