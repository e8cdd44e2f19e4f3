"""Which rows an alignment sees: weighted draws with replacement, and pairs of a batch.

A row's weight is that of its typicality (neutral, up to .25, up to .5, above), and the rarer of
virtue and vice counts in proportion to its rarity, up to a limit. The study says `up to 3 x for the
minority polarity`; over which rows polarity is counted it does not say: here, over all that train.

Docs: METHODS 1.7.
"""

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import Labels
from trimtab.edits.align_config import Sampling


def row_weights(labels: Labels, config: Sampling) -> Float64[np.ndarray, " n"]:
    """How likely each row is to be drawn; the weights add up to 1."""
    level = np.digitize(labels.typicality, (0.25, 0.5), right=True)
    weights = np.array([1.0, config.clear, config.typical])[level]
    weights[labels.polarity == 0] = config.neutral
    counts = {side: int((labels.polarity == side).sum()) for side in (1, -1)}
    rare = min(counts, key=lambda side: counts[side])
    if counts[rare]:
        weights[labels.polarity == rare] *= min(config.minority, counts[-rare] / counts[rare])
    return weights / weights.sum()


def pairs_of(
    vector: Float[np.ndarray, "n 10"], pairs: int, min_rows: int, draw: np.random.Generator
) -> list[tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]]:
    """For each dimension, pairs among the rows of a batch where it is above 0.

    With at least twice as many rows as pairs, the pairs are disjoint halves of one permutation;
    with fewer, both sides are drawn with replacement; with fewer than `min_rows` there are none.
    """
    found = []
    for dimension in range(NUM_POLES):
        rows = np.flatnonzero(vector[:, dimension] > 0)
        if len(rows) < min_rows:
            chosen: Int[np.ndarray, "2 _"] = np.zeros((2, 0), np.int64)
        elif len(rows) >= 2 * pairs:
            chosen = draw.permutation(rows)[: 2 * pairs].reshape(2, pairs)
        else:
            chosen = rows[draw.integers(len(rows), size=(2, pairs))]
        found.append((chosen[0], chosen[1]))
    return found
