"""Centring and cosines that know when nothing is left.

A direction that consists of rounding has no cosine. Both functions here make that explicit: a
difference within rounding of zero becomes exactly zero, and a zero vector's cosine is NaN.
"""

from typing import Final

import numpy as np
from jaxtyping import Float, Float64

ROUNDING: Final = 1e-12
"""A difference shorter than this share of what it was taken from is rounding, not a direction.

Float64 sums of some ten thousand rows keep about 14 digits; activations come with 3 to 7.
"""


def difference(
    a: Float[np.ndarray, "*rows d_model"], b: Float64[np.ndarray, "*#rows d_model"]
) -> Float64[np.ndarray, "*rows d_model"]:
    """`a - b` in float64, exactly 0 for a vector that differs from `b` only by rounding."""
    a = a.astype(np.float64)
    rest = a - b
    rounding = np.linalg.norm(rest, axis=-1) <= ROUNDING * np.linalg.norm(a, axis=-1)
    return np.where(rounding[..., None], 0.0, rest)


def cosine(
    a: Float64[np.ndarray, "*#rows d_model"], b: Float64[np.ndarray, "*#rows d_model"]
) -> Float64[np.ndarray, "*rows"]:
    """Cosine along the last axis, in [-1, 1]; NaN where either vector is zero or NaN."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dots = np.asarray((a * b).sum(axis=-1))
    ratios = np.divide(dots, lengths, out=np.full(dots.shape, np.nan), where=lengths > 0)
    return np.clip(ratios, -1.0, 1.0, out=ratios)
