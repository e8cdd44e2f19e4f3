"""The rows that measures are computed on: what is known about each scenario, as arrays.

A scenario is one (action, foundation) pair. Folds receive the activations of some scenarios at
one layer together with their `Labels`, and nothing else: no text, no data frame.
"""

from dataclasses import dataclass, fields
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Int

SPLITS: Final = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known about n scenarios."""

    index: Int[np.ndarray, " n"]
    """Position in the scenario table; names a row in errors and makes merging order-free."""
    vector: Float[np.ndarray, "n 10"]
    """The action's moral vector over all of its foundations, poles in the order of `POLES`."""
    typicality: Float[np.ndarray, " n"]
    """Magnitude at this row's own pole, 0 for a neutral row."""
    foundation: Int[np.ndarray, " n"]
    """0..4, the order of `FOUNDATIONS`."""
    pole: Int[np.ndarray, " n"]
    """0..9, the order of `POLES`; -1 for a neutral row."""
    polarity: Int[np.ndarray, " n"]
    """1 virtue, -1 vice, 0 neutral."""
    split: Int[np.ndarray, " n"]
    """0..2, the order of `SPLITS`."""

    def __len__(self) -> int:
        return len(self.index)

    def take(self, which: np.ndarray) -> "Labels":
        """The rows that an index array or a boolean mask picks."""
        return Labels(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: list["Labels"]) -> "Labels":
        """One table from several, in the order given. Needs at least one part."""
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        )


class Rows(NamedTuple):
    """Activations of n scenarios at one layer, with what is known about the scenarios."""

    x: Float[np.ndarray, "n d_model"]
    """Pooled block outputs, raw (not centred)."""
    labels: Labels
    """The n scenarios, in the order of `x`."""
