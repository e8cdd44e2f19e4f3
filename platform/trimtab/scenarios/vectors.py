"""Moral vectors, and one row per (action, foundation): the table that everything else reads.

An action's ten-vector holds all of its foundations; a row's typicality, pole and polarity are those
of its own foundation. An action that is judged neutral, or on which nobody agrees, has the zero
vector, no pole and polarity 0.

Li, Teng and Wang 2026, arXiv 2603.15615; docs: METHODS 1.1, DESIGN 4 (`scenarios.parquet`).
Cost: 40 bytes a row for the vector; 10 MB for the published file.
"""

from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from trimtab.core.poles import FOUNDATIONS, NUM_POLES, POLES, signed_magnitude, vice, virtue
from trimtab.core.rows import SPLITS

SCHEMA: Final = pl.Schema(
    {
        "scenario_id": pl.String(),
        "action_id": pl.Int64(),
        "action": pl.String(),
        "foundation": pl.String(),
        "pole": pl.String(),
        "vector": pl.Array(pl.Float32(), NUM_POLES),
        "typicality": pl.Float32(),
        "polarity": pl.Int8(),
        "split": pl.String(),
        "source": pl.String(),
    }
)
"""The columns of `scenarios.parquet`."""

_VIRTUE: Final = np.array([virtue(foundation) for foundation in range(len(FOUNDATIONS))])
_VICE: Final = np.array([vice(foundation) for foundation in range(len(FOUNDATIONS))])


def moral_vectors(
    signed: Float[np.ndarray, " n"],
    action: Int[np.ndarray, " pairs"],
    foundation: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, "n 10"]:
    """The ten-vector of each of n actions.

    Args:
        signed: signed magnitude of each action, in [-1, 1].
        action: which action each (action, foundation) pair belongs to, 0..n-1.
        foundation: the pair's foundation, 0..4.
    """
    vectors = np.zeros((len(signed), NUM_POLES), dtype=np.float32)
    vectors[action, _VIRTUE[foundation]] = np.where(signed > 0, signed, 0.0)[action]
    vectors[action, _VICE[foundation]] = np.where(signed < 0, -signed, 0.0)[action]
    return vectors


def expand(rows: pl.DataFrame, split: Int[np.ndarray, " n"], source: str) -> pl.DataFrame:
    """One row per (action, foundation), ordered by action and then by foundation.

    Args:
        rows: the kept rows of `socialchem.Table`.
        split: each row's split, 0..2 in the order of `SPLITS`.
        source: name of the data set.

    Returns:
        A frame with the columns of `SCHEMA`.
    """
    signed = signed_magnitude(rows["judgment"].to_numpy(), rows["agree"].to_numpy())
    pairs = (
        rows.with_row_index("action_id").select("action_id", "foundations").explode("foundations")
    )
    action = pairs["action_id"].to_numpy().astype(np.int64)
    foundation = pairs["foundations"].to_numpy().astype(np.int64)
    polarity = np.sign(signed).astype(np.int8)[action]
    pole = np.where(polarity > 0, _VIRTUE[foundation], _VICE[foundation])
    frame = pl.DataFrame(
        {
            "action_id": action,
            "action": rows["action"].gather(action),
            "foundation": _names(FOUNDATIONS, foundation),
            "pole": _names(POLES, pole),
            "vector": moral_vectors(signed, action, foundation)[action],
            "typicality": np.abs(signed)[action].astype(np.float32),
            "polarity": polarity,
            "split": _names(SPLITS, split[action]),
        }
    )
    return (
        frame.with_columns(
            scenario_id=pl.format("{}/{}", "action_id", "foundation"),
            pole=pl.when(pl.col("polarity") != 0).then("pole"),
            source=pl.lit(source),
        )
        .select(SCHEMA.names())
        .cast(SCHEMA)
    )


def _names(names: tuple[str, ...], index: Int[np.ndarray, " pairs"]) -> pl.Series:
    return pl.Series(names).gather(index)
