"""What a prepared folder says about itself: every count, and what made it.

`manifest.json` is written last, so a folder without one is not finished. It carries the checksum of
`scenarios.parquet`, so a table that was changed afterwards is noticed.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import polars as pl
from pydantic import ValidationError

from trimtab.core.config import Config
from trimtab.core.errors import DataError
from trimtab.core.hashing import file_hash
from trimtab.core.poles import FOUNDATIONS, POLARITIES
from trimtab.core.rows import SPLITS

SCENARIOS: Final = "scenarios.parquet"
MANIFEST: Final = "manifest.json"

Counts = dict[str, dict[str, int]]
"""foundation -> {virtue, vice, neutral} -> rows."""


class Manifest(Config):
    """The provenance and the counts of one `scenarios.parquet`."""

    kind: Literal["scenarios"] = "scenarios"
    """What this folder holds."""
    identity: str
    """Content hash of the data and of every choice that shaped the table."""
    source: str
    """Name of the data set."""
    data: str
    """Name of the file that was read."""
    data_sha256: str
    """SHA-256 of that file, hex."""
    seed: int
    """Seed of the split."""
    split: str
    """What was shuffled: `position` or `action`."""
    fractions: tuple[float, float]
    """Of the kept rows, in training and validation."""
    rows_read: int
    """Rows in the file."""
    dropped: dict[str, int]
    """Rows dropped, by reason; a row with several is counted under the first."""
    kept: int
    """Action rows kept."""
    kept_by_split: dict[str, int]
    """Action rows kept, by split."""
    expanded: int
    """Rows of the table: one per (action row, foundation)."""
    counts: Counts
    """Rows of the table."""
    counts_by_split: dict[str, Counts]
    """Rows of the table, by split."""
    leak: dict[str, int]
    """Validation and test action rows whose text is also a training row's."""
    scenarios_sha256: str
    """SHA-256 of `scenarios.parquet`, hex."""


def count(scenarios: pl.DataFrame) -> Counts:
    """Rows by foundation and polarity, zeros included, in the order of the poles."""
    seen = {
        (foundation, POLARITIES[polarity]): rows
        for foundation, polarity, rows in scenarios.group_by("foundation", "polarity")
        .len()
        .iter_rows()
    }
    return {
        foundation: {name: seen.get((foundation, name), 0) for name in _descending(POLARITIES)}
        for foundation in FOUNDATIONS
    }


def count_by_split(scenarios: pl.DataFrame) -> dict[str, Counts]:
    """The same for each split."""
    return {split: count(scenarios.filter(pl.col("split") == split)) for split in SPLITS}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared folder, whose table is proved to be the one it describes.

    Raises:
        DataError: the folder is missing, unfinished, of another kind, or its table was changed.
    """
    remedy = f"Make it with `trimtab prepare --data FILE --out {folder}`."
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        found = file_hash(folder / SCENARIOS)
    except OSError as error:
        raise DataError(
            f"{folder} must hold prepared scenarios ({SCENARIOS} and {MANIFEST}), but "
            f"{error.filename} cannot be read: {error.strerror}. {remedy}"
        ) from error
    except ValidationError as error:
        raise DataError(
            f"{folder / MANIFEST} is not the manifest of prepared scenarios of this version "
            f"({error.error_count()} fields do not fit). {remedy}"
        ) from error
    if found != manifest.scenarios_sha256:
        raise DataError(
            f"{folder / SCENARIOS} is not the file its manifest describes: its SHA-256 is {found}, "
            f"and should be {manifest.scenarios_sha256}. {remedy}"
        )
    return manifest


def _descending(polarities: dict[int, str]) -> Iterable[str]:
    return (polarities[sign] for sign in (1, -1, 0))
