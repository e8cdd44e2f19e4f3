"""Tables in the published format, made of the few fields that a test is about."""

import csv
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from trimtab.scenarios.socialchem import COLUMNS, read
from trimtab.scenarios.split import by_position
from trimtab.scenarios.vectors import expand

KEPT = {
    "m": "1",
    "rot-bad": "0",
    "action": "sharing a meal with a stranger.",
    "rot-moral-foundations": "care-harm",
    "action-moral-judgment": "1",
    "action-agree": "4",
}
"""The fields of a row that is kept."""

WriteTable = Callable[..., Path]


@pytest.fixture
def write_table(tmp_path: Path) -> WriteTable:
    """Writes rows, each `KEPT` but for the fields given, and returns the file's path."""

    def write(*rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
        path = tmp_path / "table.tsv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file, columns, extrasaction="ignore", delimiter="\t", lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows({**dict.fromkeys(columns, "x"), **KEPT, **row} for row in rows)
        return path

    return write


@pytest.fixture(scope="session")
def dev_file(shared: Path) -> Path:
    """The real development file."""
    return shared / "data/social-chem-101/social-chem-101.dev.tsv"


@pytest.fixture(scope="session")
def dev_scenarios(dev_file: Path) -> pl.DataFrame:
    """The development file's scenario table."""
    rows = read(dev_file).rows
    return expand(rows, by_position(rows.height, (0.8, 0.1), 42), "dev")
