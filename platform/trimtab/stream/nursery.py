"""The nursery's models, trained on the packaged corpus.

Only rows of the training split are shown to them, so that whatever a diagnosis finds on validation
and test rows is about actions the models never saw.
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from trimtab.core.errors import ConfigError
from trimtab.core.poles import FOUNDATIONS
from trimtab.models.card import ModelConfig
from trimtab.models.nursery import NurseryConfig, NurseryRow, train
from trimtab.scenarios.corpus import corpus_path
from trimtab.scenarios.prepare import load
from trimtab.scenarios.socialchem import read
from trimtab.stream.config import NURSERY, DataConfig, Split
from trimtab.stream.scenarios import prepared

VARIANTS = ("base", "instruct", "guard")


def resolve(
    models: tuple[ModelConfig, ...],
    data: DataConfig,
    out: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[ModelConfig, ...]:
    """Replaces each `nursery:VARIANT` by the folder of the trained variant.

    Args:
        data: says how the corpus is split, whatever the diagnosis itself reads.
        progress: told (variant, step, steps).

    Raises:
        ConfigError: there is no such variant.
    """
    variants = {model.id: model.id.removeprefix(NURSERY) for model in models if _is_ours(model)}
    for variant in variants.values():
        if variant not in VARIANTS:
            raise ConfigError(f"The nursery has {', '.join(VARIANTS)}, but got {variant!r}.")
    if not variants:
        return models
    folders = train(rows_of("train", data, out), NurseryConfig(), out / "nursery", progress)
    return tuple(
        model.model_copy(
            update={
                "id": str(folders[variants[model.id]]),
                "name": model.name or f"nursery-{variants[model.id]}",
                "group": model.group or variants[model.id],
            }
        )
        if _is_ours(model)
        else model
        for model in models
    )


def rows_of(split: Split, data: DataConfig, out: Path) -> list[NurseryRow]:
    """The corpus' rows of a split, in file order."""
    table = load(prepared(data.model_copy(update={"path": "corpus"}), out))
    rows = read(corpus_path()).rows.with_row_index("action_id")
    ids = table.filter(pl.col("split") == split)["action_id"].unique()
    chosen = rows.filter(pl.col("action_id").is_in(ids.cast(pl.UInt32).implode()))
    return [
        NurseryRow(
            row["action"],
            row["judgment"],
            row["agree"],
            tuple(FOUNDATIONS[i] for i in row["foundations"]),
        )
        for row in chosen.iter_rows(named=True)
    ]


def _is_ours(model: ModelConfig) -> bool:
    return model.id.startswith(NURSERY)
