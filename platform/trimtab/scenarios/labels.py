"""From the scenario table to the arrays that measures are computed on."""

import numpy as np
import polars as pl

from trimtab.core.poles import FOUNDATIONS, POLES
from trimtab.core.rows import SPLITS, Labels


def labels(scenarios: pl.DataFrame) -> Labels:
    """What is known about each row of a scenario table, or of a subset of one.

    `index` counts the rows of the table given, so a measure on a subset names rows of the subset.
    Numbers become float64, which every level of typicality is exact in.

    Args:
        scenarios: a table with the columns of `vectors.SCHEMA`.
    """
    return Labels(
        index=np.arange(scenarios.height),
        vector=scenarios["vector"].to_numpy().astype(np.float64),
        typicality=scenarios["typicality"].to_numpy().astype(np.float64),
        foundation=_codes(scenarios["foundation"], FOUNDATIONS),
        pole=_codes(scenarios["pole"], POLES),
        polarity=scenarios["polarity"].to_numpy().astype(np.int64),
        split=_codes(scenarios["split"], SPLITS),
    )


def _codes(names: pl.Series, order: tuple[str, ...]) -> np.ndarray:
    """Index of each name in `order`; -1 where there is none."""
    codes = names.replace_strict(order, range(len(order)), return_dtype=pl.Int64)
    return codes.fill_null(-1).to_numpy()
