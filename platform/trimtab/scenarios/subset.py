"""The diagnosis subset: few enough rows to cluster, every pole and every level of typicality.

Per foundation, from all splits: up to 300 rows of either pole at each graded typicality (.125 to
.75), up to 150 at 1.0 (the prototypes, from which centres are made) and up to 300 neutral rows.
The published file gives 16,315 rows.

Two ways to draw, the same bins. As released, one stream of Python's `random` runs through all bins
in order, and a bin smaller than its quota draws too, so one row more in it can change the draws
after it. By default each bin has its own named seed and a bin that fits its quota is taken
whole: what is drawn from a bin depends on that bin alone.

Either way the rows come back in the order of the table they came from, not in the order drawn.

Li, Teng and Wang 2026, arXiv 2603.15615; docs: METHODS 1.2.
"""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int
from pydantic import Field, NonNegativeInt

from trimtab.core.config import Config
from trimtab.core.poles import FOUNDATIONS, POLARITIES, TYPICALITIES
from trimtab.core.seeds import Seed

Draw = Callable[[str, int, int], list[int]]
"""(name of the bin, its rows, its quota) -> the rows drawn, as positions in the bin."""


class SubsetConfig(Config):
    """Which rows a diagnosis looks at."""

    num_graded: NonNegativeInt = 300
    """Most rows per pole and typicality below 1."""
    num_typical: NonNegativeInt = 150
    """Most rows per pole at typicality 1."""
    num_neutral: NonNegativeInt = 300
    """Most neutral rows per foundation."""
    seed: int = Field(default=42, ge=0, lt=2**63)
    """Seed of the draw; published: 42."""
    as_released: bool = False
    """Replay the released draw from one stream instead of one named seed per bin."""


class Bin(NamedTuple):
    """Rows of one foundation, polarity and typicality."""

    name: str
    """`foundation/polarity/typicality`."""
    rows: Int[np.ndarray, " n"]
    """Positions in the table, ascending."""
    quota: int
    """Most rows to take."""


def subset(scenarios: pl.DataFrame, config: SubsetConfig) -> pl.DataFrame:
    """The rows of a scenario table that a diagnosis looks at, in the table's order.

    Args:
        scenarios: a table with the columns of `vectors.SCHEMA`, in the order of `vectors.expand`.
        config: quotas, seed and way of drawing.
    """
    draw = _released(config.seed) if config.as_released else _named(config.seed)
    taken = [b.rows[draw(b.name, len(b.rows), b.quota)] for b in bins(scenarios, config)]
    return scenarios[np.sort(np.concatenate(taken))]


def bins(scenarios: pl.DataFrame, config: SubsetConfig) -> Iterator[Bin]:
    """Every bin, empty ones too, in the released order: foundation by foundation, virtue by
    ascending typicality, vice likewise, then neutral.
    """
    foundation = scenarios["foundation"].to_numpy()
    signed = scenarios["typicality"].to_numpy() * scenarios["polarity"].to_numpy()
    levels = [sign * typicality for sign in (1, -1) for typicality in TYPICALITIES]
    quotas = dict.fromkeys(levels, config.num_graded)
    quotas |= {1.0: config.num_typical, -1.0: config.num_typical, 0.0: config.num_neutral}
    for name in FOUNDATIONS:
        mine = foundation == name
        for level, quota in quotas.items():
            rows = np.flatnonzero(mine & (signed == level))
            yield Bin(f"{name}/{POLARITIES[int(np.sign(level))]}/{abs(level)}", rows, quota)


def _released(seed: int) -> Draw:
    stream = random.Random(seed)
    return lambda _, size, quota: stream.sample(range(size), min(quota, size))


def _named(seed: int) -> Draw:
    root = Seed(seed).child("subset")

    def draw(name: str, size: int, quota: int) -> list[int]:
        if size <= quota:
            return list(range(size))
        return root.child(name).python().sample(range(size), quota)

    return draw
