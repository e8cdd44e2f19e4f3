"""Every file under `sweeps/` is what its job can read."""

from pathlib import Path

import pytest

from trimtab.core.config import load_job, read_yaml
from trimtab.models.registry import REGISTRY
from trimtab.stream.config import TWIN, DiagnoseConfig, MeasureConfig
from trimtab.stream.nursery import VARIANTS

SWEEPS = Path(__file__).parents[2] / "sweeps"
FILES = sorted(SWEEPS.rglob("*.yaml"))
JOBS = {kind.JOB: kind for kind in (DiagnoseConfig,)}


def test_there_are_files() -> None:
    assert len(FILES) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SWEEPS)))
def test_each_file_is_built_by_the_record_its_job_names(path: Path) -> None:
    config = load_job(path, JOBS[read_yaml(path)["job"]])
    assert config.asks.endswith("?")


def test_the_23_are_the_registry_with_the_papers_settings() -> None:
    config = load_job(SWEEPS / "diagnose-23-models.yaml", DiagnoseConfig)
    assert [model.id for model in config.models] == list(REGISTRY)
    assert config.measures == MeasureConfig()
    assert config.data.model_copy(update={"path": "corpus"}) == type(config.data)()


def test_each_of_the_23_fits_its_gpus_in_bfloat16() -> None:
    for model in load_job(SWEEPS / "diagnose-23-models.yaml", DiagnoseConfig).models:
        gigabytes = 2 * REGISTRY[model.id].billions
        assert gigabytes < 0.9 * 80 * model.num_gpus, model.id


def test_the_demo_diagnoses_the_whole_nursery_on_unseen_rows() -> None:
    config = load_job(SWEEPS / "diagnose-demo.yaml", DiagnoseConfig)
    assert [model.id for model in config.models] == [f"nursery:{name}" for name in VARIANTS]
    assert "train" not in config.measures.splits


def test_the_twins_are_the_23_held_and_read_as_the_originals_will_be() -> None:
    models = load_job(SWEEPS / "diagnose-23-twins.yaml", DiagnoseConfig).models
    assert [model.id for model in models] == [TWIN + known for known in REGISTRY]
    for model, known in zip(models, REGISTRY.values(), strict=True):
        assert (model.precision == "nf4") == (known.architecture == "qwen3_moe")
        assert (model.source == "streamed") == (known.architecture == "llama4")
        assert (model.dtype, model.num_gpus) == ("auto", None)
