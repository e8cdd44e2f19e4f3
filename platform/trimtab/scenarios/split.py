"""Training, validation and test rows: the published split, one without leaks, and the leak itself.

The published split shuffles the *positions* of the kept rows, so an action that several annotators
judged lands on both sides: about a fifth of the validation and test rows repeat a training action.
The other split shuffles the distinct action *texts*, so no text is on two sides. Both work on
action rows, before they are expanded, and give an action's foundations to one side together.

Texts are compared exactly as they are: `being rude` and `being rude.` are two prompts and count
as two texts. Docs: METHODS 1.1.
"""

import numpy as np
import polars as pl
from jaxtyping import Int

from trimtab.core.rows import SPLITS
from trimtab.core.seeds import Seed

TRAIN, VALIDATION, TEST = range(len(SPLITS))


def by_position(n: int, fractions: tuple[float, float], seed: int) -> Int[np.ndarray, " n"]:
    """The published split of n kept rows.

    Args:
        n: number of kept rows.
        fractions: of the rows, in training and in validation; the rest is for testing.
        seed: of numpy's legacy generator, 0 .. 2**32 - 1; published: 42.

    Returns:
        Each row's split, 0..2 in the order of `SPLITS`.
    """
    order = np.arange(n)
    np.random.RandomState(seed).shuffle(order)
    split = np.empty(n, dtype=np.int8)
    split[order] = _side(np.arange(n), n, fractions)
    return split


def by_action(
    actions: pl.Series, fractions: tuple[float, float], seed: int
) -> Int[np.ndarray, " n"]:
    """A split in which all rows with the same action text are on the same side.

    Texts are shuffled and laid end to end, each as long as it has rows; a text belongs to the
    side that its first row falls into, so a side is at most one text too long.

    Args:
        actions: action text of each kept row.
        fractions: of the rows, in training and in validation; the rest is for testing.
        seed: any seed; the same one gives the same split.

    Returns:
        Each row's split, 0..2 in the order of `SPLITS`.
    """
    _, text, counts = np.unique(actions.to_numpy(), return_inverse=True, return_counts=True)
    order = Seed(seed).child("split/action").numpy().permutation(len(counts))
    start = np.empty(len(counts), dtype=np.int64)
    start[order] = np.cumsum(counts[order]) - counts[order]
    return _side(start, len(actions), fractions)[text]


def leak(actions: pl.Series, split: Int[np.ndarray, " n"]) -> dict[str, int]:
    """How many validation and test rows repeat the action text of a training row.

    Args:
        actions: action text of each kept row.
        split: each row's split, as the functions above return it.
    """
    repeats = actions.is_in(actions.filter(split == TRAIN).unique().implode()).to_numpy()
    return {SPLITS[side]: int((repeats & (split == side)).sum()) for side in (VALIDATION, TEST)}


def _side(
    place: Int[np.ndarray, " m"], n: int, fractions: tuple[float, float]
) -> Int[np.ndarray, " m"]:
    train, validation = (int(fraction * n) for fraction in fractions)
    return np.digitize(place, [train, train + validation]).astype(np.int8)
