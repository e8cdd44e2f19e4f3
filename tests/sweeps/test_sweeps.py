"""Every file under `sweeps/` is what its job can read."""

import socket
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.config import load_job, read_yaml
from trimtab.models.hardware import machine_of
from trimtab.models.registry import REGISTRY
from trimtab.sae.config import TrainConfig
from trimtab.stream.config import TWIN, DiagnoseConfig, MeasureConfig
from trimtab.stream.nursery import VARIANTS
from trimtab.stream.planning import PUBLISHED, plan_models
from trimtab.stream.steer_facts import Facts as SteerFacts
from trimtab.stream.steer_facts import weights_of
from trimtab.stream.train_config import SaeJob
from trimtab.sweep.space import (
    NUM_SAMPLES,
    check_objective,
    checked_trials,
    known_points,
    trial_record,
)
from trimtab.sweep.spec import SweepConfig
from trimtab.sweep.studies import steer
from trimtab.sweep.studies.align import Facts as AlignFacts
from trimtab.sweep.studies.sae import Facts, dimensions
from trimtab.sweep.study import STUDIES, study_named

SWEEPS = Path(__file__).parents[2] / "sweeps"
FILES = sorted(SWEEPS.rglob("*.yaml"))
JOBS = {kind.JOB: kind for kind in (DiagnoseConfig, SweepConfig)}
OF_SWEEPS = [path for path in FILES if read_yaml(path)["job"] == "sweep"]


def test_there_are_files() -> None:
    assert len(FILES) > 0
    studies = {load_job(path, SweepConfig).study for path in OF_SWEEPS}
    assert studies == set(STUDIES)


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


def facts_of(study: str, trial: Any, out: Path) -> Any:  # noqa: ANN401
    """What `survey` finds where the data, prompts and coders of a file are there."""
    machine = machine_of("h100-80gb:8", 10**12)
    if study == "steer":
        return SteerFacts(weights_of(trial, out), None, machine)
    if study == "align":
        return AlignFacts(1000, *dimensions(trial.model), trial.train.coder.width, machine)
    return Facts(1000, *dimensions(trial.model), machine)


@pytest.mark.parametrize("path", OF_SWEEPS, ids=lambda path: str(path.relative_to(SWEEPS)))
def test_every_trial_of_a_sweep_is_one_that_its_study_can_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("a sweep's file is checked without the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(steer, "folders_of", lambda *_: {})  # coders that are trained beforehand
    config = load_job(path, SweepConfig)
    study = study_named(config.study)
    check_objective(config, study)
    facts = facts_of(config.study, trial_record(study.kind, config.base, {}), tmp_path)
    trials = checked_trials(config, study, facts)
    assert len(trials) == len(known_points(config) or range(NUM_SAMPLES))


def test_the_layers_of_an_autoencoders_sweep_are_extracted() -> None:
    found = 0
    for path in OF_SWEEPS:
        config = load_job(path, SweepConfig)
        if config.study == "sae":
            for point in known_points(config) or ():
                trial = trial_record(SaeJob, config.base, point)
                assert trial.layers != "all"
                assert trial.extract.layers == "all" or {*trial.layers} <= {*trial.extract.layers}
                found += 1
    assert found > 0


def test_the_studys_sweep_is_its_own_recipe_at_each_layer() -> None:
    config = load_job(SWEEPS / "sae-qwen3-8b.yaml", SweepConfig)
    assert SaeJob.model_validate(config.base).train == TrainConfig.li2026()
    points = known_points(config)
    assert points == [{"layers": [layer]} for layer in range(36)]
    assert config.keep == 36


def test_the_sweep_of_kinds_has_all_four() -> None:
    config = load_job(SWEEPS / "sae-kinds.yaml", SweepConfig)
    kinds = {point["train"]["coder"]["kind"] for point in known_points(config) or ()}
    assert kinds == {"topk", "batchtopk", "relu", "jumprelu"}


def test_the_demo_of_a_sweep_stops_early_and_has_at_least_eight_trials() -> None:
    budget = load_job(SWEEPS / "sae-demo.yaml", SweepConfig).budget
    assert budget.scheduler.kind == "asha"
    assert (budget.num_trials or 0) >= 8
