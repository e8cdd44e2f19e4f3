"""Located latents as tables: one row a latent, and the scenarios that activate the best of them.

Scenario tables are public data (Social-Chemistry-101, the packaged corpus), so the actions stand in
them; data sets that are marked sensitive never come this way.
"""

from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from trimtab.core.files import finished_file
from trimtab.core.poles import NUM_POLES, POLES
from trimtab.core.rows import SPLITS
from trimtab.locate.classes import CLASSES
from trimtab.locate.config import LatentConfig
from trimtab.locate.folds import columns
from trimtab.locate.latents import Located
from trimtab.stream.moral import VALIDATION, Opened


def latent_table(located: Located) -> pl.DataFrame:
    """One row for each latent: class, correlations, and the concepts that it belongs to."""
    r, rho = located.r, located.rho
    best = np.abs(np.nan_to_num(r)).argmax(axis=1)
    follows = [POLES[d] if located.active[i] else None for i, d in enumerate(best)]
    width = len(r)
    return pl.DataFrame(
        {
            "latent": np.arange(width),
            "class": [CLASSES[c] for c in located.classes],
            "strict": located.strict,
            "active_rows": located.active,
            "follows": follows,
            "r": r[np.arange(width), best],
            "trained": np.isin(np.arange(width), located.sets.trained()),
            "significant": [[POLES[d] for d in np.flatnonzero(s)] for s in located.significant],
            **{f"pearson/{pole}": r[:, d] for d, pole in enumerate(POLES)},
            **{f"spearman/{pole}": rho[:, d] for d, pole in enumerate(POLES)},
        },
        schema_overrides={"significant": pl.List(pl.String), "follows": pl.String},
    ).with_columns(pl.selectors.float().fill_nan(None))


def scenario_table(
    located: Located, opened: Opened, config: LatentConfig, most: int
) -> pl.DataFrame:
    """For the best latent of each dimension, the identifying scenarios that activate it most.

    A dimension that no latent follows above the threshold has no rows.

    Args:
        most: scenarios of each latent, each action once; one on which it is silent is left out.
    """
    data = opened.data.of_split(VALIDATION)
    best = [(d, of[0]) for d, of in enumerate(located.sets.dimensions) if len(of)]
    latents = np.array([latent for _, latent in best], np.int64)
    z = columns(opened.sae, data, latents, config.batch)
    table = opened.found.scenarios.table.filter(pl.col("split") == SPLITS[VALIDATION])
    parts = [_activated(table[:0], POLES[0], 0, 0.0, np.zeros(0, np.float32))]
    for (dimension, latent), of in zip(best, z.T, strict=True):
        order = np.argsort(-of, kind="stable")
        _, first = np.unique(data.prompt[order], return_index=True)
        order = order[np.sort(first)][:most]
        order = order[of[order] > 0]
        r = float(located.r[latent, dimension])
        rows = table[order.tolist()]
        parts.append(_activated(rows, POLES[dimension], int(latent), r, of[order]))
    return pl.concat(parts)


def _activated(
    rows: pl.DataFrame, dimension: str, latent: int, r: float, z: Float[np.ndarray, " n"]
) -> pl.DataFrame:
    """Scenarios that activate one latent, most first."""
    return rows.select(
        "scenario_id", "action", "foundation", "pole", "typicality", "vector"
    ).with_columns(
        dimension=pl.lit(dimension),
        latent=pl.lit(latent, dtype=pl.Int64),
        r=pl.lit(r, dtype=pl.Float64),
        rank=pl.Series(np.arange(1, len(z) + 1), dtype=pl.Int64),
        activation=pl.Series(z, dtype=pl.Float32),
    )


def correlations_by_pole(table: pl.DataFrame, most: int) -> dict[str, list[tuple[float, bool]]]:
    """For each pole, its largest correlations and whether each is significant; for figures."""
    found = {}
    for pole in POLES:
        of = table.filter(pl.col(f"pearson/{pole}") > 0).sort(f"pearson/{pole}", descending=True)
        significant = of["significant"].list.contains(pole)
        found[pole] = list(zip(of[f"pearson/{pole}"], significant, strict=True))[:most]
    assert len(found) == NUM_POLES
    return found


def write(table: pl.DataFrame, path: Path) -> Path:
    """Writes a table as Parquet, finished or not at all."""
    with finished_file(path) as temporary:
        table.write_parquet(temporary)
    return path
