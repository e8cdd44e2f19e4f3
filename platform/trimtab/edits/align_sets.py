"""The latents that an alignment trains, and how each concept averages them.

Strict ones, the ten dimensions' sets and the ten poles' sets (`trimtab.locate.classes.Sets`), each
latent once; everything in the loss is then a matrix over these few.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from trimtab.core.poles import NUM_POLES
from trimtab.locate.classes import Sets


class Chosen(NamedTuple):
    """m trained latents and the concepts they make up, as tensors on one device."""

    latents: Int[Tensor, " m"]
    """Their numbers in the coder, ascending."""
    dimensions: Float[Tensor, "10 m"]
    """Averages each dimension's set, weighted by |r|; a row of zeros for an empty set."""
    poles: Float[Tensor, "10 m"]
    """Averages each pole's set; likewise."""
    strict: Int[Tensor, " strict"]
    """Places of the strict latents among the m."""
    strict_dimension: Int[Tensor, " strict"]
    """The dimension that each of them follows."""


def choose(sets: Sets, r: Float[np.ndarray, "width 10"], device: torch.device) -> Chosen:
    """The trained latents of some sets.

    Args:
        sets: what `trimtab.locate.latents` found.
        r: the correlations it found them by.
    """
    latents = sets.trained()
    by_r = _averages(latents, sets.dimensions, np.abs(np.nan_to_num(r)))
    equal = _averages(latents, sets.poles, np.ones_like(r))
    tensors = (
        torch.from_numpy(latents),
        torch.from_numpy(by_r).float(),
        torch.from_numpy(equal).float(),
        torch.from_numpy(np.searchsorted(latents, sets.strict)),
        torch.from_numpy(sets.strict_dimension),
    )
    return Chosen(*(tensor.to(device) for tensor in tensors))


def _averages(
    latents: Int64[np.ndarray, " m"],
    sets: Sequence[Int64[np.ndarray, " _"]],
    weight: Float[np.ndarray, "width 10"],
) -> Float[np.ndarray, "10 m"]:
    found = np.zeros((NUM_POLES, len(latents)))
    for concept, members in enumerate(sets):
        of = weight[members, concept]
        found[concept, np.searchsorted(latents, members)] = of / max(of.sum(), 1e-12)
    return found
