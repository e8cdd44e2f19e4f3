"""From a Social-Chemistry-101 file to a folder with `scenarios.parquet` and its manifest.

The same file and the same choices give the same identity; a finished folder of that identity is
left alone. A folder of another identity is made anew, its manifest first removed, so that at no
moment does a manifest stand beside a table it does not describe.

Cost: the published file in a few seconds and well below 1.5 GB.
"""

import io
import logging
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int
from pydantic import AfterValidator, Field, NonNegativeFloat

from trimtab.core.config import Config
from trimtab.core.errors import DataError, OutputError
from trimtab.core.files import finished_file, writable_folder, write_json
from trimtab.core.hashing import content_hash, file_hash
from trimtab.core.rows import SPLITS
from trimtab.scenarios import manifest as manifests
from trimtab.scenarios import socialchem, split
from trimtab.scenarios.manifest import MANIFEST, SCENARIOS, Manifest
from trimtab.scenarios.vectors import expand

_FORMAT = 1
"""Raised when the same file and choices begin to give another table."""

_log = logging.getLogger(__name__)


def _leave_a_rest(fractions: tuple[float, float]) -> tuple[float, float]:
    if sum(fractions) > 1:
        raise ValueError("`training + validation <= 1` must hold; what is left is for testing")
    return fractions


Fractions = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(_leave_a_rest)]
"""Of the rows, in training and in validation."""
SplitSeed = Annotated[int, Field(ge=0, lt=2**32)]
"""What the split's generator takes."""


class PrepareConfig(Config):
    """How a data file becomes scenarios."""

    data: Path
    """A Social-Chemistry-101 file (tab-separated, 25 columns)."""
    source: str = Field(default="social-chemistry-101", min_length=1)
    """Name of the data set, kept in each row and shown by trackers."""
    seed: SplitSeed = 42
    """Seed of the split; published: 42."""
    split: Literal["position", "action"] = "position"
    """What is shuffled: the kept rows' positions (published), or the distinct action texts, so
    that no text is on two sides."""
    fractions: Fractions = (0.8, 0.1)
    """Of the kept rows, in training and in validation; the rest is for testing."""


class Prepared(NamedTuple):
    """A finished folder."""

    folder: Path
    """Holds `scenarios.parquet` and `manifest.json`."""
    manifest: Manifest
    """Every count."""
    reused: bool
    """Whether it had been finished before."""


def prepare(config: PrepareConfig, out: Path) -> Prepared:
    """Reads, checks, splits and expands a data file, unless that has been done already.

    Args:
        config: the data and the choices.
        out: folder to write to; made if need be.

    Raises:
        DataError: the data is not what it should be.
        OutputError: the folder cannot be written to, or holds something else.
    """
    data_sha256 = _hash(config.data)
    choices = config.model_dump(mode="json", exclude={"data"})
    identity = content_hash({"format": _FORMAT, "data": data_sha256, **choices})
    finished = _finished(out, identity)
    if finished:
        _log.info("%s is finished (%s): nothing to do", out, identity)
        return Prepared(out, finished, reused=True)
    table = socialchem.read(config.data)
    sides = _sides(table.rows["action"], config)
    scenarios = expand(table.rows, sides, config.source)
    manifest = Manifest(
        identity=identity,
        data=config.data.name,
        data_sha256=data_sha256,
        rows_read=table.num_read,
        dropped=table.dropped,
        kept=table.rows.height,
        kept_by_split={name: int((sides == side).sum()) for side, name in enumerate(SPLITS)},
        expanded=scenarios.height,
        counts=manifests.count(scenarios),
        counts_by_split=manifests.count_by_split(scenarios),
        leak=split.leak(table.rows["action"], sides),
        scenarios_sha256=_write(scenarios, out),
        **choices,
    )
    write_json(out / MANIFEST, manifest.model_dump(mode="json"))
    return Prepared(out, manifest, reused=False)


def load(folder: Path) -> pl.DataFrame:
    """The scenario table of a prepared folder, with the columns of `vectors.SCHEMA`.

    Raises:
        DataError: the folder is missing, unfinished, of another kind, or its table was changed.
    """
    manifests.read_manifest(folder)
    return pl.read_parquet(folder / SCENARIOS)


def _hash(data: Path) -> str:
    try:
        return file_hash(data)
    except OSError as error:
        raise DataError(
            f"The scenario file {data} cannot be read: {error.strerror}. Give the path of a "
            "Social-Chemistry-101 TSV, or fetch it with `trimtab prepare --download`."
        ) from error


def _finished(out: Path, identity: str) -> Manifest | None:
    """The manifest of `out` if it is finished, intact and of this identity."""
    if not (out / MANIFEST).is_file():
        return None
    if not (out / SCENARIOS).is_file():
        raise OutputError(
            f"{out} must be a new folder or one of prepared scenarios, but it holds a {MANIFEST} "
            f"and no {SCENARIOS}: something else lives there. Choose another folder."
        )
    try:
        manifest = manifests.read_manifest(out)
    except DataError as error:
        _log.warning("%s is made anew: %s", out, error)
        return None
    return manifest if manifest.identity == identity else None


def _sides(actions: pl.Series, config: PrepareConfig) -> Int[np.ndarray, " n"]:
    if config.split == "action":
        return split.by_action(actions, config.fractions, config.seed)
    return split.by_position(len(actions), config.fractions, config.seed)


def _write(scenarios: pl.DataFrame, out: Path) -> str:
    """Writes the table and returns its SHA-256."""
    writable_folder(out)
    (out / MANIFEST).unlink(missing_ok=True)
    # polars reports a full disk as an error of its own without an errno; Python's write does not.
    buffer = io.BytesIO()
    scenarios.write_parquet(buffer)
    with finished_file(out / SCENARIOS) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return file_hash(out / SCENARIOS)
