"""Classes and sets of latents, and what a set is worth, from correlations alone.

With r the ten correlations of a latent (an undefined one counts as 0):

    weak           its largest |r| is below `weak`
    monosemantic   exactly one |r| above `strong`; or at most two, and the two largest are the two
                   poles of one foundation (as the rule says, also where none is above `strong`)
    polysemantic   the rest
    strict         its largest |r| is above `strong` and above `strict_ratio` times its second

Sets are lists of latents, best first, equal ones by number: of a dimension, the `per_dimension`
largest r above `strong`; of a pole, the `per_pole` largest r above 0, and for prototypicality the
`num_prototypes` largest above 0 (the study names no threshold for either). Everything takes leading axes, so that a thousand shuffles are classed at once.

Li, Teng and Wang 2026, arXiv 2603.15615; docs: METHODS 1.6.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from trimtab.core.poles import NUM_POLES
from trimtab.locate.config import LatentConfig
from trimtab.metrics.correlation import spearman
from trimtab.metrics.vectors import cosine

CLASSES: Final = ("weak", "monosemantic", "polysemantic")
WEAK, MONOSEMANTIC, POLYSEMANTIC = range(len(CLASSES))


class Sets(NamedTuple):
    """The latents of each concept."""

    strict: Int64[np.ndarray, " strict"]
    """Ascending."""
    strict_dimension: Int64[np.ndarray, " strict"]
    """The dimension that each strict latent follows most."""
    dimensions: tuple[Int64[np.ndarray, " _"], ...]
    """For each of the ten dimensions."""
    poles: tuple[Int64[np.ndarray, " _"], ...]
    """For each of the ten poles."""
    prototypes: tuple[Int64[np.ndarray, " _"], ...]
    """For each of the ten dimensions, the latents whose agreement with typicality is averaged."""

    def trained(self) -> Int64[np.ndarray, " latents"]:
        """Every latent that an alignment trains (all sets but the last), once, ascending."""
        return np.unique(np.concatenate([self.strict, *self.dimensions, *self.poles]))

    @property
    def found(self) -> bool:
        """Whether a latent is strict or in a dimension's set; the other sets need no threshold."""
        return bool(len(self.strict) or any(map(len, self.dimensions)))


def classify(
    r: Float[np.ndarray, "*shuffles width 10"], config: LatentConfig
) -> Int64[np.ndarray, "*shuffles width"]:
    """The class of each latent, an index into `CLASSES`."""
    size = np.abs(np.nan_to_num(r))
    top = np.argpartition(size, NUM_POLES - 2, axis=-1)[..., -2:]
    pair = top[..., 0] // 2 == top[..., 1] // 2
    above = (size > config.strong).sum(axis=-1)
    mono = (above == 1) | ((above <= 2) & pair)
    classes = np.where(mono, MONOSEMANTIC, POLYSEMANTIC)
    return np.where(size.max(axis=-1) < config.weak, WEAK, classes)


def is_strict(r: Float[np.ndarray, "width 10"], config: LatentConfig) -> Bool[np.ndarray, " width"]:
    """Whether each latent is strict."""
    size = np.sort(np.abs(np.nan_to_num(r)), axis=-1)
    return (size[:, -1] > config.strong) & (size[:, -1] > config.strict_ratio * size[:, -2])


def sets_of(r: Float[np.ndarray, "width 10"], config: LatentConfig) -> Sets:
    """The sets that these correlations give."""
    strict = np.flatnonzero(is_strict(r, config))
    dimension = np.abs(np.nan_to_num(r[strict])).argmax(axis=-1)
    return Sets(
        strict,
        dimension,
        tuple(best(r[:, d], config.strong, config.per_dimension) for d in range(NUM_POLES)),
        tuple(best(r[:, d], 0.0, config.per_pole) for d in range(NUM_POLES)),
        tuple(best(r[:, d], 0.0, config.num_prototypes) for d in range(NUM_POLES)),
    )


def best(r: Float[np.ndarray, " width"], above: float, most: int) -> Int64[np.ndarray, " _"]:
    """The latents with the largest r above a threshold, best first, equal ones by number."""
    candidates = np.flatnonzero(r > above)
    return candidates[np.argsort(-r[candidates], kind="stable")[:most]]


def prototypicality(
    z: Sequence[Float[np.ndarray, "n _"]], vector: Float[np.ndarray, "n 10"], min_rows: int
) -> Float64[np.ndarray, "10"]:
    """How well the best latents of each dimension follow how typical a case is.

    For each dimension, the mean of its latents' Spearman correlations with the dimension, over the
    rows where it is above 0. NaN with fewer than `min_rows` such rows, with no latents, or where
    no correlation is defined; a latent that is constant on those rows has none and is left out.

    Args:
        z: for each dimension, its latents' activations on the n rows.
    """
    found = np.full(NUM_POLES, np.nan)
    for dimension, latents in enumerate(z):
        rows = vector[:, dimension] > 0
        if rows.sum() >= min_rows:
            found[dimension] = _mean_rho(latents[rows], vector[rows, dimension])
    return found


def pair_cosine(r: Float[np.ndarray, "width 10"]) -> Float64[np.ndarray, "5"]:
    """For each foundation, the cosine of its virtue's and its vice's r over all latents."""
    r = np.nan_to_num(r).astype(np.float64)
    return cosine(r[:, 0::2].T, r[:, 1::2].T)


def strongest(r: Float[np.ndarray, "width 10"]) -> tuple[int, int, float]:
    """The latent, the dimension and the r with the largest |r|; r is NaN if none is defined."""
    if np.isnan(r).all():
        return 0, 0, float("nan")
    latent, dimension = np.unravel_index(np.nanargmax(np.abs(r)), r.shape)
    return int(latent), int(dimension), float(r[latent, dimension])


def _mean_rho(z: Float[np.ndarray, "m latents"], typicality: Float[np.ndarray, " m"]) -> float:
    target = typicality.astype(np.float64)
    rho = np.array([spearman(column.astype(np.float64), target) for column in z.T])
    defined = rho[~np.isnan(rho)]
    return float(defined.mean()) if len(defined) else float("nan")
