"""What chance would give: shuffled labels, the monosemantic ratio under them, false discoveries.

A correlation above .1 is no finding where few rows are looked at: over 300 rows chance alone gives
one in twelve latents that. So the labels are shuffled and the count is done again.

What is shuffled. All rows of one prompt have the same activation, so they are not independent and
move together: the block of labels of one prompt goes to another prompt with equally many rows.
Every latent and every dimension keep their values; only who has which is changed. A prompt that no
other is as long as keeps its labels, which can only make the test milder.

What is asked. Is the observed ratio above the shuffled ones (p = (1 + as many or more) /
(1 + shuffles))? And which latents follow a dimension beyond chance: each |r| is compared with the
shuffled |r| of all latents that are active on about as many rows (within a factor of two), because
a latent that is rarely active reaches a large |r| more easily; the p values of a dimension's
latents then pass Benjamini and Hochberg's rule. Latents that never vary are not tested.

Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57, 289; Phipson and Smyth 2010 (the added one);
Tusher, Tibshirani and Chu 2001, PNAS 98, 5116 (a null that latents share).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64


class Ratio(NamedTuple):
    """A share of the latents, and the same share under shuffled labels."""

    observed: float
    chance: float
    """Mean over the shuffles."""
    low: float
    """2.5 % of the shuffles are below."""
    high: float
    """2.5 % of the shuffles are above."""
    p: float
    """Chance of a share this large or larger."""


def shuffled_orders(
    prompt: Int[np.ndarray, " n"], shuffles: int, draw: np.random.Generator
) -> Int64[np.ndarray, "{shuffles} n"]:
    """For each shuffle and row, the row whose labels it gets.

    Args:
        prompt: which prompt each row asks; rows with the same one move together.
    """
    order = np.argsort(prompt, kind="stable")
    _, starts, sizes = np.unique(prompt[order], return_index=True, return_counts=True)
    orders = np.tile(np.arange(len(prompt)), (shuffles, 1))
    for size in np.unique(sizes):
        blocks = order[starts[sizes == size][:, None] + np.arange(size)]
        for one in orders:
            one[blocks] = draw.permutation(blocks, axis=0)
    return orders


def against(observed: float, shuffled: Float[np.ndarray, " shuffles"]) -> Ratio:
    """A share beside the same share under each shuffle; NaN without shuffles."""
    if not len(shuffled):
        nan = float("nan")
        return Ratio(observed, nan, nan, nan, nan)
    low, high = np.quantile(shuffled, (0.025, 0.975))
    p = (1 + (shuffled >= observed).sum()) / (1 + len(shuffled))
    return Ratio(observed, float(shuffled.mean()), float(low), float(high), float(p))


def p_values(
    r: Float[np.ndarray, "width 10"],
    shuffled: Float[np.ndarray, "shuffles width 10"],
    active: Int[np.ndarray, " width"],
) -> Float64[np.ndarray, "width 10"]:
    """Chance of an |r| this large among latents that are about as active; NaN where r is."""
    p = np.full(r.shape, np.nan)
    octave = np.frexp(active)[1]
    for these in (np.flatnonzero(octave == level) for level in np.unique(octave)):
        for dimension in range(r.shape[1]):
            null = np.abs(shuffled[:, these, dimension]).ravel()
            null = np.sort(null[~np.isnan(null)])
            size = np.abs(r[these, dimension])
            beyond = len(null) - np.searchsorted(null, size, side="left")
            p[these, dimension] = np.where(np.isnan(size), np.nan, (1 + beyond) / (1 + len(null)))
    return p


def discoveries(
    p: Float[np.ndarray, "width 10"], false_discovery: float
) -> Bool[np.ndarray, "width 10"]:
    """The latents that Benjamini and Hochberg's rule lets each dimension have."""
    found = np.zeros(p.shape, dtype=bool)
    for dimension, of in enumerate(p.T):
        tested = np.sort(of[~np.isnan(of)])
        below = tested <= false_discovery * np.arange(1, len(tested) + 1) / max(len(tested), 1)
        if below.any():
            found[:, dimension] = of <= tested[below].max()
    return found
