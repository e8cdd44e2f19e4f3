"""Padding-free batches: only prompts of equal length share one.

Scenario prompts are short (about 12 tokens) and of many lengths, so a padded batch in file order
computes mostly padding. Batches of equal length need no mask, are exact, and at a given budget
depend on nothing but the lengths.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from trimtab.core.errors import ModelError


class Batch(NamedTuple):
    """Prompts that run together."""

    which: Int[np.ndarray, " batch"]
    """Positions of its prompts among those that were planned."""
    length: int
    """Tokens of each of them."""

    @property
    def shape(self) -> tuple[int, int]:
        """Prompts and tokens."""
        return len(self.which), self.length


def plan_batches(
    lengths: Sequence[int], token_budget: int, parts: Sequence[int] = ()
) -> list[Batch]:
    """Cuts prompts into batches of equal length, shortest first within a part.

    Args:
        lengths: tokens of each prompt, at least 1.
        token_budget: most tokens in one batch.
        parts: prompts of each part; no batch holds prompts of two, so that a prompt's batch is
            the same whatever else runs beside its part. The default is one part.

    Raises:
        ModelError: one prompt alone is longer than the budget.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size and sizes.max() > token_budget:
        raise ModelError(
            f"The longest prompt must fit into one batch, but it has {sizes.max()} tokens and "
            f"{token_budget=}. Raise the budget, or use a machine with more memory."
        )
    ends = np.cumsum(parts or [len(sizes)])
    assert ends[-1] == len(sizes), "the parts are all prompts"
    return [
        batch
        for start, end in zip([0, *ends], ends, strict=False)
        for batch in _equal_lengths(sizes[start:end], int(start), token_budget)
    ]


def _equal_lengths(
    sizes: Int[np.ndarray, " part"], first: int, token_budget: int
) -> Iterator[Batch]:
    for length in np.unique(sizes):
        which = first + np.flatnonzero(sizes == length)
        per_batch = token_budget // int(length)
        for start in range(0, len(which), per_batch):
            yield Batch(which[start : start + per_batch], int(length))
