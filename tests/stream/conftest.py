"""A toy model, a small slice of the corpus, and a configuration that joins them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from toys import save_toy

from trimtab.models.loading import ModelConfig
from trimtab.scenarios.subset import SubsetConfig
from trimtab.stream.config import DataConfig, DiagnoseConfig, ExtractConfig, MeasureConfig

Configure = Callable[..., DiagnoseConfig]


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama toy in Hugging Face layout."""
    return save_toy(tmp_path_factory.mktemp("models") / "toy-llama")


@pytest.fixture
def configure(toy_folder: Path, tmp_path: Path) -> Configure:
    """Builds a configuration that runs in seconds; fields given replace its own."""

    def build(**fields: object) -> DiagnoseConfig:
        few = SubsetConfig(num_graded=6, num_typical=12, num_neutral=12)
        mine = DiagnoseConfig(
            job="diagnose",
            asks="does the toy tell right from wrong?",
            models=(ModelConfig(id=str(toy_folder)),),
            data=DataConfig(fractions=(0.5, 0.25), subset=few),
            extract=ExtractConfig(token_budget=256, block_prompts=100),
            measures=MeasureConfig(min_cluster_size=5, min_samples=2),
            out=tmp_path / "runs",
        )
        return mine.model_copy(update=fields)

    return build
