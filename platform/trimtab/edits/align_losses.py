"""The terms of the alignment loss, each a pure function of a batch.

Throughout, z [n, m] are the trained latents' activations, `vector` [n, 10] the moral vectors, and a
concept's latents are a row of a matrix [10, m] that averages z: `align_sets` makes it, with |r| as
weights for a dimension and equal ones for a pole. A row of zeros is a concept without latents.

    align      mean over dimensions of (sigmoid(z . w_d) - v_d)^2 over the rows with v_d > 0
    polarity   mean over five pairs of  mean relu(margin - V + C) over rows that stand for the
               virtue + mean relu(margin - C + V) over rows that stand for the vice
    prototype  mean over dimensions of relu(margin - (v_i - v_j)(a_i - a_j)) over pairs of rows,
               a = z . w_d
    mono       mean of z^2 of a strict latent over rows whose largest dimension is another one

A dimension, pair or latent without rows or latents is left out of its mean (a pair counts 0).
Reconstruction and sparsity are means and need no function.

Li, Teng and Wang 2026, arXiv 2603.15615; docs: METHODS 1.7.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Pairs = tuple[Int[Tensor, " _"], Int[Tensor, " _"]]
"""Rows to be compared; both empty where a dimension is skipped."""


def align(
    z: Float[Tensor, "n m"], vector: Float[Tensor, "n 10"], weights: Float[Tensor, "10 m"]
) -> Float[Tensor, ""]:
    """Do a dimension's latents say how much of it there is?"""
    error = (torch.sigmoid(z @ weights.T) - vector).square()
    rows = (vector > 0) & weights.any(1)
    by_dimension = _masked_mean(error, rows)
    return _mean(by_dimension[rows.any(0)])


def polarity(
    z: Float[Tensor, "n m"],
    vector: Float[Tensor, "n 10"],
    means: Float[Tensor, "10 m"],
    *,
    margin: float,
    above: float,
    min_rows: int,
) -> Float[Tensor, ""]:
    """Are the two poles of a foundation apart?

    Args:
        means: averages each pole's latents.
        margin: how far apart they must be.
        above: magnitude above which a row stands for a pole.
        min_rows: a pair with fewer such rows on either side counts 0.
    """
    poles, stands = z @ means.T, vector > above
    gap = poles[:, 0::2] - poles[:, 1::2]
    virtue = _masked_mean((margin - gap).relu(), stands[:, 0::2])
    vice = _masked_mean((margin + gap).relu(), stands[:, 1::2])
    has_both = ((stands.sum(0) >= min_rows) & means.any(1)).reshape(5, 2).all(1)
    return ((virtue + vice) * has_both).mean()


def prototype(
    z: Float[Tensor, "n m"],
    vector: Float[Tensor, "n 10"],
    weights: Float[Tensor, "10 m"],
    pairs: Sequence[Pairs],
    margin: float,
) -> Float[Tensor, ""]:
    """Does a more typical row activate a dimension more?

    Args:
        pairs: for each dimension, the rows to compare.
        margin: what the product of the differences must exceed.
    """
    found, has_latents = [], weights.any(1).tolist()
    for dimension, (i, j) in enumerate(pairs):
        if len(i) and has_latents[dimension]:
            a, v = z @ weights[dimension], vector[:, dimension]
            found.append((margin - (v[i] - v[j]) * (a[i] - a[j])).relu().mean())
    return torch.stack(found).mean() if found else z.new_zeros(())


def mono(
    z: Float[Tensor, "n strict"],
    vector: Float[Tensor, "n 10"],
    dimension: Int[Tensor, " strict"],
    *,
    as_released: bool,
) -> Float[Tensor, ""]:
    """Are strict latents silent on other dimensions?

    Args:
        z: the strict latents alone.
        dimension: the one that each of them follows.
        as_released: see `others`.
    """
    rows = others(vector, as_released=as_released)[:, dimension]
    return (z.square() * rows).sum() / rows.sum().clamp(min=1)


def others(vector: Float[Tensor, "n 10"], *, as_released: bool) -> Bool[Tensor, "n 10"]:
    """For each row and dimension, whether the row's largest dimension is another one.

    Args:
        as_released: the largest is the first of equal ones, which makes a neutral row one of
            `care`. Else a row belongs to each dimension that is as large as any, and a neutral
            row, which has none, counts for nothing.
    """
    if as_released:
        return vector.argmax(1)[:, None] != torch.arange(10, device=vector.device)
    return vector < vector.amax(1, keepdim=True)


def _masked_mean(
    values: Float[Tensor, "n columns"], rows: Bool[Tensor, "n columns"]
) -> Float[Tensor, " columns"]:
    """Mean of each column over its rows; 0 without any."""
    return (values * rows).sum(0) / rows.sum(0).clamp(min=1)


def _mean(values: Float[Tensor, " some"]) -> Float[Tensor, ""]:
    return values.mean() if len(values) else values.sum()
