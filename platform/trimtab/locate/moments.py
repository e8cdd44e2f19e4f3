"""Pearson correlation of every latent with every target in one pass, no row kept.

Means, scatters and the cross scatter of latents z and targets y, in float64, centred on the mean of
the rows seen so far and merged pairwise, so that a cut of the rows changes 1e-12 at most. Nothing
of latent-by-latent size is held, which is why these are not `trimtab.metrics.moments`.

Memory: width x targets float64, where the latents are; 5 MB at 65,536 x 10, 530 MB with 100 shuffles
beside them, and as much again, twice, while merging.

Chan, Golub and LeVeque 1979, equation 2.1b.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

ROUNDING: Final = 1e-12
"""A latent whose spread is this small a share of its mean is constant."""


@dataclass(frozen=True, eq=False)
class LatentMoments:
    """Moments of n pairs (z, y), on the device that they were computed on."""

    count: int
    """n."""
    active: Int64[Tensor, " width"]
    """On how many of the n rows each latent was above 0."""
    mean_z: Float64[Tensor, " width"]
    """Mean of z."""
    mean_y: Float64[Tensor, " targets"]
    """Mean of y."""
    szz: Float64[Tensor, " width"]
    """Sum of (z - mean)^2."""
    syy: Float64[Tensor, " targets"]
    """Sum of (y - mean)^2."""
    szy: Float64[Tensor, "width targets"]
    """Sum of (z - mean)(y - mean)."""


def no_moments(width: int, targets: int) -> LatentMoments:
    """The moments of no pairs."""
    z, y = torch.zeros(width, dtype=torch.float64), torch.zeros(targets, dtype=torch.float64)
    return LatentMoments(0, z.long(), z, y, z, y, torch.outer(z, y))


def observe(z: Float[Tensor, "n width"], y: Float[Tensor, "n targets"]) -> LatentMoments:
    """The moments of these pairs, computed where they are."""
    active = (z > 0).sum(0)
    z, y = z.double(), y.double()
    mean_z, mean_y = z.mean(0), y.mean(0)
    z, y = z - mean_z, y - mean_y
    sums = (active, mean_z, mean_y, z.square().sum(0), y.square().sum(0), z.T @ y)
    return LatentMoments(len(z), *sums)


def merge(a: LatentMoments, b: LatentMoments) -> LatentMoments:
    """The moments of the pairs of both."""
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    dz, dy = b.mean_z - a.mean_z, b.mean_y - a.mean_y
    weight, share = a.count * b.count / count, b.count / count
    return LatentMoments(
        count,
        a.active + b.active,
        a.mean_z + share * dz,
        a.mean_y + share * dy,
        a.szz + b.szz + weight * dz.square(),
        a.syy + b.syy + weight * dy.square(),
        torch.addcmul(a.szy + b.szy, (weight * dz)[:, None], dy[None, :]),
    )


def pearson(moments: LatentMoments) -> Float64[Tensor, "width targets"]:
    """Correlation of each latent with each target; NaN where either is constant up to rounding."""
    z = _spread(moments.szz, moments.mean_z, moments.count)
    y = _spread(moments.syy, moments.mean_y, moments.count)
    return (moments.szy / z[:, None] / y[None, :]).clamp(-1, 1)


def _spread(scatter: Float64[Tensor, " m"], mean: Float64[Tensor, " m"], n: int) -> Tensor:
    """Root of the scatter; NaN for one that is rounding."""
    nothing = scatter <= n * (ROUNDING * mean).square()
    return scatter.sqrt().masked_fill(nothing, float("nan"))
