"""Every file under `sweeps/` is what its job can read."""

from pathlib import Path

import pytest

from trimtab.core.config import load_job, read_yaml
from trimtab.models.hardware import machine_of
from trimtab.models.registry import REGISTRY
from trimtab.stream.config import TWIN, DiagnoseConfig, MeasureConfig
from trimtab.stream.nursery import VARIANTS
from trimtab.stream.planning import PUBLISHED, plan_models

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


@pytest.mark.parametrize("gpu", ["h100-80gb:8", "h200-141gb:8", "h200-141gb:1"])
def test_each_of_the_23_has_a_place_and_only_235b_is_in_4_bits(gpu: str) -> None:
    config = load_job(SWEEPS / "diagnose-23-models.yaml", DiagnoseConfig)
    budget = config.extract.token_budget
    planned = plan_models(config.models, machine_of(gpu, 10**12), PUBLISHED, budget)
    for one in planned:
        assert one.plan is not None, one.error
        assert one.plan.token_budget == budget or one.spec.precision == "nf4"
        assert one.plan.gpus_per_replica <= (2 if one.spec.precision == "nf4" else 1)
    in_4_bits = {one.spec.id for one in planned if one.plan and one.plan.precision == "nf4"}
    assert in_4_bits == {known.id for known in REGISTRY.values() if known.billions > 200}


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
