"""From what a configuration calls its data to a table of scenarios and a plan of blocks."""

import logging
from pathlib import Path
from typing import NamedTuple

import polars as pl
from transformers import PreTrainedTokenizerBase

from trimtab.core.files import writable_folder
from trimtab.core.hashing import content_hash
from trimtab.models.tokens import tokenise
from trimtab.scenarios.corpus import corpus_path
from trimtab.scenarios.manifest import Manifest, read_manifest
from trimtab.scenarios.prepare import PrepareConfig, load, prepare
from trimtab.scenarios.prompts import prompts
from trimtab.scenarios.subset import subset
from trimtab.stream.blocks import Plan, distinct, plan
from trimtab.stream.config import CORPUS, DataConfig, ExtractConfig

log = logging.getLogger(__name__)


class Scenarios(NamedTuple):
    """Prepared scenarios."""

    table: pl.DataFrame
    """The rows asked for, in the prepared table's order."""
    manifest: Manifest
    """How the whole table was made."""
    folder: Path
    """Where the whole table is."""


def prepared(data: DataConfig, out: Path) -> Path:
    """The folder of the prepared table that a configuration names, made if it is not there.

    Raises:
        DataError: the data is not what it should be.
        OutputError: `out` cannot be written to.
    """
    path = Path(data.path).expanduser()
    if data.path != CORPUS and path.is_dir():
        return path
    config = PrepareConfig(
        data=corpus_path() if data.path == CORPUS else path,
        source="trimtab-corpus" if data.path == CORPUS else "social-chemistry-101",
        split=data.split,
        fractions=data.fractions,
        seed=data.seed,
    )
    name = f"{config.data.stem}-{config.hash}"
    return prepare(config, writable_folder(out) / "scenarios" / name).folder


def read(data: DataConfig, out: Path, *, as_released: bool = False) -> Scenarios:
    """The scenarios that a configuration asks for.

    Args:
        as_released: draw the subset by the released stream.

    Raises:
        DataError: as `prepared`.
    """
    folder = prepared(data, out)
    table, manifest = load(folder), read_manifest(folder)
    if data.subset is not None:
        released = as_released or data.subset.as_released
        table = subset(table, data.subset.model_copy(update={"as_released": released}))
    return Scenarios(table, manifest, folder)


def plan_for(
    table: pl.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    extract: ExtractConfig,
) -> Plan:
    """The blocks in which a model reads a table.

    Raises:
        DataError: a prompt is over the length limit, or there is no row.
    """
    texts = prompts(table["action"], template)
    first, prompt_of_row = distinct(texts)
    ids = table["scenario_id"].to_list()
    tokenised = tokenise(
        tokenizer, [texts[i] for i in first], [ids[i] for i in first], extract.max_tokens
    )
    return plan(table, tokenised, prompt_of_row, extract.block_prompts)


def data_identity(scenarios: Scenarios, data: DataConfig) -> str:
    """Content hash of the rows asked for and how they are asked."""
    ids = scenarios.table["scenario_id"].to_list()
    return content_hash([scenarios.manifest.identity, ids, data.prompt])
