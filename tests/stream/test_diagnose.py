"""The first job from a configuration to MLflow, on Ray."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file
from toys import save_toy
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.core.errors import ActivationError, ConfigError, DataError, StoreError
from trimtab.core.names import NAMES
from trimtab.models.card import ModelConfig
from trimtab.scenarios.labels import labels
from trimtab.scenarios.prompts import prompts
from trimtab.store.layout import shard_path
from trimtab.stream.config import DataConfig, DiagnoseConfig, ExtractConfig, WorkerConfig
from trimtab.stream.diagnose import Outcome, diagnose
from trimtab.stream.diagnosis import Diagnosis
from trimtab.stream.scenarios import read
from trimtab.track.mlflow import sqlite_uri

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
Configure = Callable[..., DiagnoseConfig]
SMALL = {"token_budget": 256, "block_prompts": 100}


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def only(outcome: Outcome) -> Diagnosis:
    (found,) = outcome.diagnoses
    return found


def numbers(found: Diagnosis) -> dict[str, dict[int, float]]:
    return found.curves


def test_a_diagnosis_lands_in_mlflow_with_every_measure_by_layer(
    plain: Outcome, plain_config: DiagnoseConfig
) -> None:
    found = only(plain)
    run = MlflowClient(plain.tracking_uri).get_run(plain.runs["toy-llama"])
    client = MlflowClient(plain.tracking_uri)
    for name, layers in found.curves.items():
        logged = {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
        assert logged == pytest.approx(layers)
    assert set(run.data.metrics) <= NAMES
    glance = client.get_metric_history(run.info.run_id, "at_a_glance/dimensional_r2")
    assert {m.step: m.value for m in glance} == pytest.approx(found.curves["dimensional/r2"])
    assert {"categorical/cosine/mean", "gradient/spearman/mean", "dimensional/r2"} <= set(
        found.curves
    )
    assert run.data.tags["model"] == plain_config.models[0].id
    assert run.data.tags["quantisation"] == "none"
    assert run.inputs.dataset_inputs[0].dataset.name == "trimtab-corpus"
    figures = {f.path for f in client.list_artifacts(run.info.run_id, "figures")}
    assert "figures/categorical.png" in figures
    assert all(path.is_file() for path in plain.figures)


def test_the_numbers_are_those_of_a_plain_computation(
    plain: Outcome, plain_config: DiagnoseConfig
) -> None:
    config, found = plain_config, only(plain)
    table = read(config.data, config.out).table
    model = AutoModelForCausalLM.from_pretrained(config.models[0].id)
    tokenizer = AutoTokenizer.from_pretrained(config.models[0].id)
    rows = []
    for text in prompts(table["action"]):
        states = []
        hook = model.model.layers[2].register_forward_hook(lambda m, i, o: states.append(o))  # noqa: B023
        with torch.inference_mode():
            model(**tokenizer(text, return_tensors="pt"))
        hook.remove()
        rows.append(states[0][0].mean(0).numpy())
    x, known = np.array(rows, dtype=np.float64), labels(table)
    x -= x.mean(0)
    for name, v, c in (("care-harm", 0, 1), ("sanctity-degradation", 8, 9)):
        a, b = (x[(known.pole == p) & (known.typicality == 1)].mean(0) for p in (v, c))
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert found.layers[2].metrics[f"categorical/cosine/{name}"] == pytest.approx(
            cosine, abs=1e-4
        )


def test_a_store_a_second_pass_and_more_workers_give_the_same_bits(
    plain: Outcome, configure: Configure, tmp_path: Path
) -> None:
    first = only(plain)
    second = only(diagnose(configure(store=False, out=tmp_path / "second")))
    many = only(diagnose(configure(workers=WorkerConfig(replicas=2), out=tmp_path / "many")))
    assert numbers(first) == numbers(second) == numbers(many)
    held = {name: value for name, value in first.costs.items() if name.startswith("held_bytes/")}
    assert held["held_bytes/float32"] > 0
    assert held.items() <= second.costs.items()
    assert not (tmp_path / "second" / "activations").exists()


def test_layer_groups_do_not_move_a_bit(plain: Outcome, configure: Configure) -> None:
    grouped = configure(
        workers=WorkerConfig(memory_gb=1e-6), extract=ExtractConfig(**SMALL, layers=(1, 3))
    )
    found = only(diagnose(grouped))
    assert {k: found.layers[k].metrics for k in (1, 3)} == {
        k: only(plain).layers[k].metrics for k in (1, 3)
    }


def test_what_is_finished_is_reused_and_logged_once(
    plain: Outcome, plain_config: DiagnoseConfig, tmp_path: Path
) -> None:
    stages: list[str] = []
    again = diagnose(plain_config, lambda stage, *_: stages.append(stage))
    assert only(again).reused
    assert stages == ["toy-llama: finished before, reused", "toy-llama: in MLflow"]
    assert again.runs == plain.runs
    assert numbers(only(again)) == numbers(only(plain))
    elsewhere = plain_config.model_copy(update={"tracking_uri": sqlite_uri(tmp_path)})
    third = diagnose(elsewhere)
    assert only(third).reused
    assert third.runs != plain.runs


def test_other_measures_reuse_the_activations(plain: Outcome, plain_config: DiagnoseConfig) -> None:
    # A subset that keeps every row is the same rows in the released draw.
    everything = DataConfig(fractions=(0.5, 0.25), subset=None)
    config = plain_config.model_copy(update={"data": everything})
    stages: list[str] = []
    default = only(diagnose(config))
    released = only(
        diagnose(
            config.model_copy(update={"as_released": True}), lambda stage, *_: stages.append(stage)
        )
    )
    assert "toy-llama: activations reused" in stages
    changed = {name for name, by in default.curves.items() if released.curves.get(name) != by}
    assert {"gradient/spearman/mean", "dimensional/r2"} <= changed
    assert "categorical/cosine/mean" not in changed


def test_an_interrupted_extraction_goes_on_where_it_stopped(
    plain: Outcome, configure: Configure
) -> None:
    config = configure()

    def kill(stage: str, done: int, _of: int) -> None:
        if "extract" in stage and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diagnose(config, kill)
    kept = sorted(config.out.glob("activations/*/mean/*.safetensors"))
    times = [path.stat().st_mtime_ns for path in kept]
    assert kept
    assert not list(config.out.glob("activations/*/manifest.json"))
    assert not list(config.out.glob("diagnoses/*/result.json"))
    resumed = only(diagnose(config))
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert numbers(resumed) == numbers(only(plain))


def test_a_killed_worker_is_replaced_and_another_plan_gives_the_same_numbers(
    plain: Outcome, configure: Configure
) -> None:
    config = configure(extract=ExtractConfig(token_budget=128, block_prompts=20))
    killed: list[int] = []

    def kill(stage: str, done: int, _of: int) -> None:
        if "extract" in stage and done == 1:
            for process in psutil.Process().children(recursive=True):
                if "ExtractBlocks" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)

    found = numbers(only(diagnose(config, kill)))
    assert killed
    for name, layers in numbers(only(plain)).items():
        assert found[name] == pytest.approx(layers, rel=1e-5, abs=1e-6), name


def test_a_damaged_shard_is_named_and_rebuilt(
    plain: Outcome, plain_config: DiagnoseConfig, configure: Configure
) -> None:
    config, first = configure(), only(plain)
    stored = config.out / "activations" / first.provenance["activations"]
    shutil.copytree(plain_config.out / "activations" / stored.name, stored)
    (store,) = (config.out / "activations").iterdir()
    shard = shard_path(store, "mean", 1)
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"block-00001\.safetensors"):
        diagnose(config)
    shard.unlink()
    assert numbers(only(diagnose(config))) == numbers(first)


def test_a_nan_activation_is_named_and_nothing_looks_finished(
    configure: Configure, tmp_path: Path
) -> None:
    broken = save_toy(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    config = configure(models=(ModelConfig(id=str(broken)),))
    with pytest.raises(ActivationError, match=r"Layer 2 .*scenario \d+/[a-z]+-[a-z]+"):
        diagnose(config)
    assert not list(config.out.glob("activations/*/manifest.json"))
    assert not list(config.out.glob("diagnoses/*/result.json"))


def test_a_layer_that_is_not_there_is_refused_before_ray_is_asked(configure: Configure) -> None:
    config = configure(extract=ExtractConfig(layers=(0, 9)))
    with pytest.raises(ConfigError, match="the last one is 3"):
        diagnose(config)


def test_a_prompt_over_the_limit_is_refused_by_its_scenario(configure: Configure) -> None:
    config = configure(extract=ExtractConfig(max_tokens=8))
    with pytest.raises(DataError, match=r"1 to 8 tokens, but scenario \d+/"):
        diagnose(config)


def test_two_models_of_one_name_are_refused(configure: Configure) -> None:
    config = configure()
    with pytest.raises(ValueError, match="must have different names"):
        DiagnoseConfig.model_validate(
            {**config.model_dump(), "models": [{"id": "a/m"}, {"id": "b/m"}]}
        )


def test_the_result_file_holds_every_number(plain: Outcome) -> None:
    found = only(plain)
    kept = json.loads((found.folder / "result.json").read_text())
    assert kept["metrics"]["dimensional/r2"]["3"] == found.layers[3].metrics["dimensional/r2"]
    assert kept["peaks"] == found.peaks
    assert len(kept["matrices"]["0"]) == 10
