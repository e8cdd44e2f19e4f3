"""Locating and aligning from their records to tables, an autoencoder, and MLflow."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from mlflow import MlflowClient

from trimtab.core.errors import CoderError, ConfigError, DataError, StoreError, TrimtabError
from trimtab.core.names import NAMES
from trimtab.core.poles import POLES
from trimtab.edits.align_config import AlignConfig
from trimtab.locate.config import LatentConfig
from trimtab.models.card import ModelConfig
from trimtab.models.loading import describe
from trimtab.sae.about import About
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.folder import load_sae, save_sae
from trimtab.scenarios.subset import SubsetConfig
from trimtab.stream.align import STATE, CoderAligned, align
from trimtab.stream.config import ExtractConfig
from trimtab.stream.locate import LatentsFound, locate
from trimtab.stream.moral_config import AlignJob, LocateJob
from trimtab.stream.train_config import AllRows

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
LAYERS = (1, 3)
LATENTS = LatentConfig(min_rows=5, permutations=5)
ALIGN = AlignConfig(latents=LATENTS, epochs=3, learning_rate=1e-2, batch=64)
FEW = SubsetConfig(num_graded=6, num_typical=12, num_neutral=12)


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def random_coder(d_model: int, width: int = 40) -> Sae:
    draw = torch.Generator().manual_seed(0)
    sae = Sae(CoderConfig(kind="relu", width=width), d_model)
    directions = torch.randn(width, d_model, generator=draw)
    with torch.no_grad():
        sae.W_enc.copy_(directions)
        sae.W_dec.copy_(directions / directions.norm(dim=1, keepdim=True))
    return sae


@pytest.fixture(scope="module")
def told(
    toy_folder: Path, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What both jobs are told, with a coder of layer 3."""
    out = tmp_path_factory.mktemp("moral")
    card, _ = describe(ModelConfig(id=str(toy_folder)))
    about = About(model=card.id, revision=card.revision, layer=3, pooling="mean")
    save_sae(out / "coder", random_coder(card.d_model), about)
    return {
        "model": ModelConfig(id=str(toy_folder)),
        "data": AllRows(fractions=(0.5, 0.25), subset=FEW),
        "extract": ExtractConfig(token_budget=256, block_prompts=100, layers=LAYERS),
        "out": out,
        "sae": out / "coder",
        "tracking_uri": tracking_uri,
    }


@pytest.fixture(scope="module")
def located(local_ray: None, told: dict[str, Any]) -> LatentsFound:
    return locate(LocateJob(**told, latents=LATENTS))


@pytest.fixture(scope="module")
def aligned(local_ray: None, told: dict[str, Any]) -> CoderAligned:
    return align(AlignJob(**told, align=ALIGN))


def metrics_of(found: LatentsFound | CoderAligned) -> dict[str, float]:
    return MlflowClient(found.tracking_uri).get_run(found.run_id).data.metrics


def test_located_latents_are_a_table_of_every_latent(located: LatentsFound) -> None:
    table = located.latents
    assert table["latent"].to_list() == list(range(40))
    assert set(table["class"]) <= {"weak", "monosemantic", "polysemantic"}
    best = np.abs(table.select([f"pearson/{pole}" for pole in POLES]).fill_null(0.0).to_numpy())
    np.testing.assert_allclose(np.abs(table["r"].fill_null(0.0)), best.max(axis=1))
    assert located.result["outcome"]
    assert all(path.is_file() for path in located.figures)


def test_top_scenarios_are_validation_actions_once_each_and_fall(located: LatentsFound) -> None:
    table = located.scenarios
    for _, part in table.group_by("dimension"):
        assert part["action"].n_unique() == part.height <= 10
        assert part.sort("rank")["activation"].is_sorted(descending=True)
        assert (part["activation"] > 0).all()
        assert part["latent"].n_unique() == 1


def test_both_land_in_mlflow_under_listed_names(
    located: LatentsFound, aligned: CoderAligned
) -> None:
    for found in (located, aligned):
        logged = metrics_of(found)
        assert logged.keys() <= NAMES
        for name, value in found.result["metrics"].items():
            assert logged[name] == pytest.approx(value)
    client = MlflowClient(aligned.tracking_uri)
    losses = client.get_metric_history(aligned.run_id, "align/validation/loss")
    assert [metric.step for metric in losses] == [1, 2, 3]
    run = client.get_run(aligned.run_id)
    assert run.data.tags["layers"] == "3"
    assert run.data.params["align.epochs"] == "3"


def test_what_is_finished_is_reused(
    located: LatentsFound, aligned: CoderAligned, told: dict[str, Any]
) -> None:
    again = locate(LocateJob(**told, latents=LATENTS))
    assert again.reused
    assert replace(again, reused=False) == located
    assert align(AlignJob(**told, align=ALIGN)).reused
    other = align(AlignJob(**told, align=ALIGN.model_copy(update={"epochs": 1})))
    assert not other.reused
    assert other.folder != aligned.folder


def test_the_aligned_coder_differs_from_the_first_in_the_trained_rows_alone(
    aligned: CoderAligned, told: dict[str, Any]
) -> None:
    before, after = load_sae(told["sae"]), load_sae(aligned.coder)
    trained = after.about.provenance["trained_latents"]
    assert len(trained) > 0
    frozen = np.setdiff1d(np.arange(40), trained)
    for name in ("W_enc", "b_enc", "W_dec"):
        assert torch.equal(getattr(after.sae, name)[frozen], getattr(before.sae, name)[frozen])
    assert torch.equal(after.sae.b_dec, before.sae.b_dec)
    assert not torch.equal(after.sae.W_enc, before.sae.W_enc)
    assert (after.about.layer, after.about.model) == (3, before.about.model)
    flags = pl.read_parquet(aligned.folder / "latents.parquet")["trained"]
    assert np.flatnonzero(flags).tolist() == trained


def test_an_alignment_that_was_cut_short_goes_on_to_the_same_bits(
    aligned: CoderAligned, told: dict[str, Any], tmp_path: Path
) -> None:
    fresh = told | {"out": tmp_path}
    epochs = 0

    def interrupt(stage: str, done: int, of: int) -> None:
        nonlocal epochs
        epochs += stage.endswith("align")
        if epochs == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align(AlignJob(**fresh, align=ALIGN), interrupt)
    (state,) = tmp_path.rglob(STATE)
    found = align(AlignJob(**fresh, align=ALIGN))
    assert not state.exists()
    again, first = load_sae(found.coder).sae, load_sae(aligned.coder).sae
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert found.result["metrics"] == aligned.result["metrics"]


def test_a_store_of_more_layers_is_read_and_without_one_only_the_layer_is_extracted(
    located: LatentsFound, told: dict[str, Any], tmp_path: Path
) -> None:
    every = told["extract"].model_copy(update={"layers": "all"})
    again = locate(LocateJob(**told | {"extract": every}, latents=LATENTS))
    assert again.reused
    locate(LocateJob(**told | {"extract": every, "out": tmp_path}, latents=LATENTS))
    (manifest,) = (tmp_path / "activations").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["layers"] == [3]


def test_no_latent_above_the_threshold_is_recorded_and_leaves_the_coder_as_it_was(
    told: dict[str, Any],
) -> None:
    strict = LATENTS.model_copy(update={"strong": 0.99})
    nothing = locate(LocateJob(**told, latents=strict))
    assert nothing.scenarios.height == 0
    assert "action" in nothing.scenarios.columns
    found = align(AlignJob(**told, align=ALIGN.model_copy(update={"latents": strict})))
    assert found.result["outcome"].startswith("No latent is above |r| = 0.99; the best value")
    assert found.result["metrics"]["align/latents/trained"] == 0
    before, after = load_sae(told["sae"]).sae, load_sae(found.coder).sae
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value)


def test_what_does_not_fit_is_refused_before_anything_is_written(
    told: dict[str, Any], tmp_path: Path
) -> None:
    card, _ = describe(told["model"])
    right = About(model=card.id, revision=card.revision, layer=3)
    good = random_coder(card.d_model)
    folders = {
        "wide": (random_coder(card.d_model + 1), right),
        "other": (good, right.model_copy(update={"model": "a/b", "revision": "0"})),
        "deep": (good, right.model_copy(update={"layer": 99})),
        "nowhere": (good, right.model_copy(update={"layer": None})),
        "unread": (good, right.model_copy(update={"layer": 2})),
        "good": (good, right),
    }
    for name, (sae, about) in folders.items():
        save_sae(tmp_path / name, sae, about)
    everything = AllRows(fractions=(1.0, 0.0), subset=FEW)
    wrong: list[tuple[str, type[TrimtabError], str, dict[str, Any]]] = [
        ("wide", CoderError, "reads activations of width", {}),
        ("other", CoderError, "was trained on the model a/b", {}),
        ("deep", CoderError, "reads layer 99", {}),
        ("nowhere", ConfigError, "does not say which layer", {}),
        ("good", CoderError, "reads layer 3, but layer 1 is asked for", {"layer": 1}),
        ("unread", StoreError, "does not keep layer 2", {}),
        ("missing", CoderError, "missing is none", {}),
        ("good", DataError, "validation has none", {"data": everything}),
    ]
    for name, error, says, fields in wrong:
        job = told | {"sae": tmp_path / name, "out": told["out"]} | fields
        with pytest.raises(error, match=says):
            locate(LocateJob(**job, latents=LATENTS))
