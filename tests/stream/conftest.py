"""A toy model, a small slice of the corpus, and a configuration that joins them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from toys import save_toy

from trimtab.models.card import ModelConfig
from trimtab.scenarios.subset import SubsetConfig
from trimtab.stream.config import DataConfig, DiagnoseConfig, ExtractConfig, MeasureConfig
from trimtab.stream.diagnose import Outcome, diagnose
from trimtab.track.mlflow import sqlite_uri

Configure = Callable[..., DiagnoseConfig]


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store of the session: making its tables takes seconds."""
    return sqlite_uri(tmp_path_factory.mktemp("tracking"))


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama toy in Hugging Face layout."""
    return save_toy(tmp_path_factory.mktemp("models") / "toy-llama")


@pytest.fixture(scope="session")
def plain_config(
    toy_folder: Path, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> DiagnoseConfig:
    """A diagnosis that runs in seconds."""
    few = SubsetConfig(num_graded=6, num_typical=12, num_neutral=12)
    return DiagnoseConfig(
        job="diagnose",
        asks="does the toy tell right from wrong?",
        models=(ModelConfig(id=str(toy_folder)),),
        data=DataConfig(fractions=(0.5, 0.25), subset=few),
        extract=ExtractConfig(token_budget=256, block_prompts=100),
        measures=MeasureConfig(min_cluster_size=5, min_samples=2),
        out=tmp_path_factory.mktemp("plain"),
        tracking_uri=tracking_uri,
    )


@pytest.fixture(scope="session")
def plain(local_ray: None, plain_config: DiagnoseConfig) -> Outcome:
    """What it gives; many tests look at it."""
    return diagnose(plain_config)


@pytest.fixture
def configure(plain_config: DiagnoseConfig, tmp_path: Path) -> Configure:
    """The same in a fresh folder; fields given replace its own."""

    return lambda **fields: plain_config.model_copy(update={"out": tmp_path / "runs", **fields})
