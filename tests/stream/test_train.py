"""A training from its record to autoencoders, MLflow and what they are worth."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from toys import save_toy

from trimtab.core.config import build
from trimtab.core.errors import CoderError, ConfigError, StoreError, TrainingError
from trimtab.core.names import NAMES
from trimtab.models.card import ModelConfig
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.evaluate import quality
from trimtab.sae.folder import load_sae, save_sae
from trimtab.sae.training import Progress, Trainer
from trimtab.scenarios.prompts import prompts
from trimtab.scenarios.subset import SubsetConfig
from trimtab.store.layout import shard_path
from trimtab.stream.activations import activations
from trimtab.stream.coders import held_out_texts, parts
from trimtab.stream.config import ExtractConfig
from trimtab.stream.train import Trained, train
from trimtab.stream.train_config import AllRows, EvaluateConfig, TrainJob

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
Configure = Callable[..., TrainJob]
LAYERS = (1, 3)
TOPK = CoderConfig(kind="topk", width=48, k=4)


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def recipe(**fields: object) -> TrainConfig:
    plain = TrainConfig(coder=TOPK, epochs=4.0, batch_size=32, report_steps=3, learning_rate=1e-2)
    return plain.model_copy(update=fields)


@pytest.fixture(scope="session")
def plain_job(
    toy_folder: Path, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> TrainJob:
    """A training of two layers that takes a second."""
    few = SubsetConfig(num_graded=6, num_typical=12, num_neutral=12)
    return TrainJob(
        model=ModelConfig(id=str(toy_folder)),
        data=AllRows(fractions=(0.5, 0.25), subset=few),
        extract=ExtractConfig(token_budget=256, block_prompts=100, layers=LAYERS),
        train=recipe(),
        evaluate=EvaluateConfig(texts=20),
        device="cpu",
        out=tmp_path_factory.mktemp("train"),
        tracking_uri=tracking_uri,
    )


@pytest.fixture(scope="session")
def trained(local_ray: None, plain_job: TrainJob) -> Trained:
    """What it gives; many tests look at it."""
    return train(plain_job)


@pytest.fixture
def configure(trained: Trained, plain_job: TrainJob, tmp_path: Path) -> Configure:
    """The same in a fresh folder that has the activations; fields given replace its own."""

    def make(**fields: object) -> TrainJob:
        out = tmp_path / "runs"
        if not out.exists():
            for name in ("activations", "scenarios"):
                shutil.copytree(plain_job.out / name, out / name)
        return plain_job.model_copy(update={"out": out, **fields})

    return make


def weights(found: Trained) -> dict[int, dict[str, torch.Tensor]]:
    return {k: load_sae(folder).sae.state_dict() for k, folder in found.coders.items()}


def assert_same_bits(a: Trained, b: Trained) -> None:
    for layer, tensors in weights(a).items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, weights(b)[layer][name]), (layer, name)
    assert a.result.metrics == b.result.metrics


def curve(found: Trained) -> pl.DataFrame:
    table = pl.read_parquet(found.folder / "curves.parquet")
    return table.filter(pl.col("metric") != "train/rows_per_second")


def cut_short_after(reports: int) -> "mock._patch[Any]":
    """The trainer, interrupted when so many reports are out."""
    run = Trainer.run

    def some(self: Trainer) -> Iterator[Progress]:
        for number, progress in enumerate(run(self)):
            if number == reports:
                raise KeyboardInterrupt
            yield progress

    return mock.patch.object(Trainer, "run", some)


def test_each_layer_gets_an_autoencoder_that_says_where_it_comes_from(
    trained: Trained, plain_job: TrainJob
) -> None:
    assert set(trained.coders) == set(LAYERS)
    for layer, folder in trained.coders.items():
        sae, about = load_sae(folder)
        assert (sae.config, sae.d_model) == (TOPK, 32)
        assert (about.layer, about.model) == (layer, plain_job.model.id)
        assert (about.pooling, about.prompt) == ("mean", "{action} is morally")
        assert about.rows == trained.result.rows["train"]
        assert about.training["learning_rate"] == 1e-2
        assert about.quality == trained.result.metrics[layer]
    assert not (trained.folder / "checkpoint").exists()


def test_the_quality_is_that_of_the_folders_on_the_test_rows(
    trained: Trained, plain_job: TrainJob
) -> None:
    found = activations(plain_job.model, plain_job, lambda *_: None)
    rows = parts(plain_job, found)
    assert len(rows.train) == trained.result.rows["train"] == (found.labels.split == 0).sum()
    for layer, folder in trained.coders.items():
        expected = quality(load_sae(folder).sae, rows.held_out, layer).named()
        told = trained.result.metrics[layer]
        assert {k: told[k] for k in expected} == pytest.approx(expected, rel=1e-6)
        assert told["sae/l0"] <= TOPK.k
        norms = told["sae/token/l2_norm_in"] / told["sae/l2_norm_in"]
        assert told["sae/token/norm_ratio"] == pytest.approx(norms)
        assert "sae/ce_loss_score" in told


def test_held_out_texts_are_distinct_and_none_was_trained_on(plain_job: TrainJob) -> None:
    found = activations(plain_job.model, plain_job, lambda *_: None)
    table = found.scenarios.table
    texts = prompts(table["action"])
    by_id = dict(zip(table["scenario_id"], texts, strict=True))
    chosen = [by_id[prompt.name] for prompt in held_out_texts(plain_job, found)]
    seen = {t for t, split in zip(texts, table["split"], strict=True) if split == "train"}
    assert len(set(chosen)) == len(chosen) == 20
    assert not seen.intersection(chosen)


def test_the_run_in_mlflow_has_curve_quality_and_figures(
    trained: Trained, plain_job: TrainJob
) -> None:
    client = MlflowClient(trained.tracking_uri)
    run = client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) <= NAMES
    history = client.get_metric_history(trained.run_id, "sae/fvu")
    assert {m.step: m.value for m in history} == pytest.approx(
        {layer: named["sae/fvu"] for layer, named in trained.result.metrics.items()}
    )
    mean = (
        curve(trained)
        .filter(pl.col("metric") == "validation/fvu")
        .group_by("step")
        .agg(pl.col("value").mean())
    )
    learning = client.get_metric_history(trained.run_id, "validation/fvu")
    assert {m.step: m.value for m in learning} == pytest.approx(
        dict(mean.select("step", "value").iter_rows())
    )
    assert max(m.step for m in learning) == trained.result.steps
    assert run.data.tags["kind"] == "topk"
    assert run.data.tags["layers"] == "1,3"
    assert run.data.params["train.learning_rate"] == "0.01"
    figures = {f.path for f in client.list_artifacts(trained.run_id, "figures")}
    assert figures == {"figures/learning.png", "figures/quality.png"}
    assert run.inputs.dataset_inputs[0].dataset.name == "trimtab-corpus"


def test_what_is_finished_is_reused_and_logged_once(trained: Trained, plain_job: TrainJob) -> None:
    told: list[str] = []
    with mock.patch.object(Trainer, "run", side_effect=AssertionError):
        again = train(plain_job, lambda stage, *_: told.append(stage))
    assert again.reused
    assert again[:5] == trained[:5]
    assert again.run_id == trained.run_id
    assert "toy-llama: trained before, reused" in told


def test_other_held_out_data_measures_again_and_trains_nothing(configure: Configure) -> None:
    first = train(configure())
    with mock.patch.object(Trainer, "run", side_effect=AssertionError):
        again = train(configure(evaluate=EvaluateConfig(texts=0, split="validation")))
    assert again.folder == first.folder
    assert again.run_id == first.run_id
    assert "sae/ce_loss_score" not in again.result.metrics[1]
    assert again.result.metrics[1]["sae/mse"] != first.result.metrics[1]["sae/mse"]
    assert load_sae(again.coders[1]).about.quality == again.result.metrics[1]


@pytest.mark.parametrize("reports", [0, 1, 4])
def test_a_training_that_was_cut_short_goes_on_to_the_same_bits_in_the_same_run(
    trained: Trained, configure: Configure, reports: int
) -> None:
    job = configure(checkpoint_minutes=0.0)
    with cut_short_after(reports), pytest.raises(KeyboardInterrupt):
        train(job)
    (entry,) = json.loads(
        (job.out / "saes" / trained.folder.name / "logged.json").read_text()
    ).values()
    assert MlflowClient(trained.tracking_uri).get_run(entry["run"]).info.status == "KILLED"
    found = train(job)
    assert_same_bits(found, trained)
    assert curve(found).equals(curve(trained))
    assert found.run_id == entry["run"]
    history = MlflowClient(trained.tracking_uri).get_metric_history(found.run_id, "train/loss")
    steps = [m.step for m in history]
    assert steps == sorted(set(curve(found)["step"].to_list()))


def test_checkpoints_are_as_far_apart_as_asked(configure: Configure) -> None:
    with mock.patch.object(Trainer, "save", autospec=True) as save:
        train(configure(checkpoint_minutes=60.0))
    assert save.call_count == 1, "only at its end, so that measuring can be cut short too"


def test_what_decides_the_weights_names_the_folder_and_nothing_else_does(
    trained: Trained, configure: Configure
) -> None:
    same = train(configure(checkpoint_minutes=1.0, evaluate=EvaluateConfig(texts=5)))
    assert same.folder.name == trained.folder.name
    others = {
        train(configure(**fields)).folder.name
        for fields in ({"seed": 1}, {"layers": (1,)}, {"train": recipe(epochs=2.0)})
    }
    assert len(others | {trained.folder.name}) == 4


def test_a_layer_by_itself_is_what_it_is_among_others(
    trained: Trained, configure: Configure
) -> None:
    alone = train(configure(layers=(3,)))
    for name, tensor in weights(alone)[3].items():
        torch.testing.assert_close(tensor, weights(trained)[3][name], rtol=1e-4, atol=1e-5)


def test_training_goes_on_from_a_folder_of_ours_of_saelens_and_of_sparsify(
    trained: Trained, configure: Configure, tmp_path: Path
) -> None:
    exported = train(configure(export="sparsify"))
    assert set(exported.exports) == set(LAYERS)
    saelens = tmp_path / "saelens"
    saelens.mkdir()
    for name in ("cfg.json", "sae_weights.safetensors"):
        shutil.copy(trained.coders[1] / name, saelens)
    still = recipe(learning_rate=1e-12, epochs=0.2, warmup_epochs=0.0)
    before = trained.result.metrics[1]["sae/fvu"]
    for start, layers in (
        (trained.folder, LAYERS),
        (trained.coders[1], (1,)),
        (saelens, (1,)),
        (exported.folder / "sparsify", LAYERS),
    ):
        found = train(configure(start=start, layers=layers, train=still))
        assert found.result.metrics[1]["sae/fvu"] == pytest.approx(before, rel=1e-3), start
        assert found.folder != trained.folder


def test_an_autoencoder_that_does_not_fit_is_refused_and_both_are_named(
    trained: Trained, configure: Configure, tmp_path: Path
) -> None:
    def refused(error: type[Exception], says: str, **fields: object) -> None:
        with pytest.raises(error, match=says):
            train(configure(**fields))

    wider = recipe(coder=CoderConfig(kind="topk", width=64, k=4))
    says = r"is topk, width 48, k 4, but topk, width 64, k 4 is to be trained"
    refused(CoderError, says, start=trained.folder, train=wider)
    says = "one autoencoder, but 2 layers are to be trained"
    refused(ConfigError, says, start=trained.coders[1])
    refused(ConfigError, "of layer 1, but layer 3", start=trained.coders[1], layers=(3,))
    refused(CoderError, "An autoencoder is a folder", start=tmp_path / "none")

    other = save_toy(tmp_path / "other", "qwen3")
    says = f"trained on the model .*toy-llama, but {other} is to be read"
    refused(CoderError, says, start=trained.folder, model=ModelConfig(id=str(other)))

    about = load_sae(trained.coders[1]).about
    save_sae(tmp_path / "narrow", Sae(TOPK, 16), about)
    says = "activations of width 16 .*toy-llama has 32"
    refused(CoderError, says, start=tmp_path / "narrow", layers=(1,))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    trained: Trained, configure: Configure
) -> None:
    job = configure(checkpoint_minutes=0.0)
    step = Trainer.step

    def poisoned(self: Trainer, batch: dict[int, torch.Tensor]) -> None:
        if self.steps == 7:
            batch[3][0, 0] = float("nan")
        step(self, batch)

    with (
        mock.patch.object(Trainer, "step", poisoned),
        pytest.raises(TrainingError, match=r"layer 3, step 7 \(epoch \d, rows \d+ to \d+\)"),
    ):
        train(job)
    folder = job.out / "saes" / trained.folder.name
    assert not (folder / "training.json").exists()
    (entry,) = json.loads((folder / "logged.json").read_text()).values()
    assert MlflowClient(trained.tracking_uri).get_run(entry["run"]).info.status == "FAILED"
    assert all(
        t.isfinite().all()
        for t in load_file(next(folder.glob("checkpoint/*.safetensors"))).values()
    )
    assert_same_bits(train(job), trained)


def test_a_damaged_store_is_refused_and_a_missing_manifest_is_made_again(
    trained: Trained, configure: Configure
) -> None:
    job = configure()
    (store,) = (job.out / "activations").iterdir()
    shard = shard_path(store, "mean", 0)
    whole = shard.read_bytes()
    data = bytearray(whole)
    data[-1] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"wrong checksum: .*Delete that shard"):
        train(job)
    shard.write_bytes(whole)
    (store / "manifest.json").unlink()
    assert_same_bits(train(job), trained)


def test_what_cannot_be_is_refused_before_anything_runs(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"\[2\] are not among `extract.layers` \[1, 3\]"):
        train(checked(configure(), layers=(2,)))
    with pytest.raises(ConfigError, match="each once"):
        checked(configure(), layers=(1, 1))
    with pytest.raises(ConfigError, match=r"k=64, width=48"):
        checked(configure(), train={"coder": {"kind": "topk", "width": 48, "k": 64}})
    with pytest.raises(ConfigError, match="width"):
        checked(configure(), train={"coder": {"width": 0}})
    with pytest.raises(ConfigError, match="topk coders only, but the kind is relu"):
        checked(configure(), export="sparsify", train={"coder": {"kind": "relu", "width": 8}})
    with pytest.raises(ConfigError, match="layer=9, num_layers=4"):
        train(configure(extract=ExtractConfig(layers=(9,)), layers=(9,)))


def checked(job: TrainJob, **fields: object) -> TrainJob:
    return build(TrainJob, job.model_dump() | fields, where="a test")
