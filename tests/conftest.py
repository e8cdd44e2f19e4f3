"""What every room's tests share: where the real data is."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real data and weights; a test that wants it skips where it is absent."""
    default = Path(__file__).parents[2] / "shared"
    path = Path(os.environ.get("TRIMTAB_TEST_DATA", default))
    if not (path / "data").is_dir():
        pytest.skip(f"no real data at {path}; set TRIMTAB_TEST_DATA to a folder that has it")
    return path
