"""Sweeps of the fake study, and one MLflow store for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.config import build
from trimtab.sweep.spec import SweepConfig
from trimtab.track.mlflow import sqlite_uri

Configure = Callable[..., SweepConfig]
FAKE = "fake_study:STUDY"


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store of the session: making its tables takes seconds."""
    return sqlite_uri(tmp_path_factory.mktemp("tracking"))


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """A sweep of the fake study; fields given replace its own."""

    def build_one(**fields: Any) -> SweepConfig:  # noqa: ANN401
        tree = {
            "job": "sweep",
            "asks": "Which x is best?",
            "study": FAKE,
            "base": {},
            "space": {"x": {"grid": [0, 2, 3, 9]}},
            "objective": {"metric": "validation/mse", "mode": "min"},
            "budget": {"searcher": "grid", "concurrency": 2, "save_seconds": 0},
            "out": tmp_path / "runs",
        }
        return build(SweepConfig, tree | fields, where="a test")

    return build_one
