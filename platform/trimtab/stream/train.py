"""The driver of `trimtab train`: a model and scenarios in, an autoencoder of each layer out.

The activations are extracted where they are not there yet. Then the layers train in one loop on
one stream of batches, and what comes out is measured on rows and texts that were not trained on.

A training has one MLflow run and one folder, named by all that decides its weights:

    saes/NAME-HASH/layers.5/       the autoencoder of layer 5 (`trimtab.sae.folder`)
                   sparsify/       the same in sparsify's layout, where asked for
                   curves.parquet  every report: step, layer, metric, value
                   figures/
                   training.json   written last: held-out quality, rows, steps, seconds
                   checkpoint/     while it is not finished (`trimtab.stream.train_loop`)

Said again, what is finished is reused, and what was cut short goes on from its checkpoint to the
same bits, in the same run.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from trimtab.core.config import Config, build, flat
from trimtab.core.files import writable_folder, write_json
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report
from trimtab.core.rows import SPLITS
from trimtab.core.seeds import Seed
from trimtab.models.card import ModelCard
from trimtab.models.loading import describe
from trimtab.report.training import draw_training
from trimtab.sae.about import Loaded
from trimtab.sae.coder import Sae
from trimtab.sae.files import read_settings
from trimtab.sae.folder import load_sae, save_sae
from trimtab.sae.sparsify import export_sparsify
from trimtab.sae.training import Trainer
from trimtab.stream import twins
from trimtab.stream.activations import Activations, activations
from trimtab.stream.coders import (
    Parts,
    about,
    check_start,
    device_named,
    layer_name,
    layers_of,
    measure,
    parts,
    said,
    starts,
    weights_hash,
)
from trimtab.stream.curves import Point, by_metric, load_curves, save_curves
from trimtab.stream.publish import git_commit, model_tags
from trimtab.stream.tasks import resolved
from trimtab.stream.train_config import TrainJob
from trimtab.stream.train_log import TrainLog
from trimtab.stream.train_loop import CURVES, Told, run_trainer
from trimtab.track.mlflow import MlflowTracker, prepare_store, run_exists, sqlite_uri

TRAINING_VERSION: Final = 1
"""Raised whenever the same configuration begins to give other weights."""
EXPERIMENT: Final = "trimtab/sae"
RESULT: Final = "training.json"
EXPORTS: Final = "sparsify"
FIGURES: Final = "figures"


class Result(Config):
    """What `training.json` says."""

    evaluate: str
    """Hash of what it was measured on."""
    metrics: dict[int, dict[str, float]]
    """By layer: held-out quality."""
    rows: dict[str, int]
    """Rows of each split."""
    steps: int
    """Optimiser steps."""
    epochs: float
    """Passes over the training rows; less than asked for where it stopped early."""
    seconds: float
    """Spent on training, interruptions left out."""


class Trained(NamedTuple):
    """What a training leaves behind."""

    card: ModelCard
    """Whose activations."""
    folder: Path
    """The training's own."""
    coders: dict[int, Path]
    """By layer: the autoencoder's folder."""
    exports: dict[int, Path]
    """By layer: the same in sparsify's layout, where asked for."""
    result: Result
    """What it came to."""
    figures: list[Path]
    """Learning curves and, of several layers, quality by layer."""
    reused: bool
    """Whether it was trained before."""
    run_id: str
    """Of MLflow."""
    tracking_uri: str
    """The MLflow store."""


class _Todo(NamedTuple):
    """One training, understood, with no step taken yet."""

    job: TrainJob
    found: Activations
    rows: Parts
    starts: dict[int, Loaded]
    folder: Path

    @property
    def layers(self) -> tuple[int, ...]:
        return self.rows.train.layers

    @property
    def label(self) -> str:
        return self.found.card.label

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def num_rows(self) -> dict[str, int]:
        counted = (self.found.labels.split == code for code in range(len(SPLITS)))
        return {name: int(of.sum()) for name, of in zip(SPLITS, counted, strict=True)}


def train(job: TrainJob, report: Report = lambda *_: None) -> Trained:
    """Trains, or takes up what was trained; measures, saves and logs.

    Args:
        job: what to do.
        report: told about progress.

    Raises:
        TrimtabError: something the user can mend.
    """
    out = writable_folder(job.out).resolve()
    device = device_named(job.device)
    uri = prepare_store(job.tracking_uri or sqlite_uri(out))
    job = job.model_copy(update={"out": out})
    (spec,) = resolved((job.model,), job, report)
    todo = _todo(job.model_copy(update={"model": spec}), report)
    log = TrainLog(
        todo.folder,
        uri,
        lambda run_id: MlflowTracker(EXPERIMENT, todo.folder.name, uri, run_id),
        lambda run_id: run_exists(uri, run_id),
    )
    before = _finished(todo.folder)
    result = before if before and before.evaluate == job.evaluate.hash else None
    if result is None or not log.finished:
        with log:
            log.begin(_tags(todo), _params(todo), _dataset(todo))
            result = result or _measured(todo, before, device, log, report)
            curves = load_curves(todo.folder / CURVES)
            log.follow(curves)
            log.finish(result.metrics, _files(todo, result, curves))
    if before:
        report(f"{todo.label}: trained before, reused", 1, 1)
    return _outcome(todo, result, log.run_id, uri, reused=before is not None)


def _todo(job: TrainJob, report: Report) -> _Todo:
    """Checks all that can be wrong before anything is trained, and most before it is extracted."""
    begun = _starts(job)
    found = activations(job.model, job, report)
    identity = content_hash(
        [
            TRAINING_VERSION,
            found.identity,
            job.extract.pooling,
            layers_of(job, found),
            job.train.model_dump(mode="json"),
            job.seed,
            weights_hash({layer: one.sae for layer, one in begun.items()}),
        ]
    )
    folder = job.out / "saes" / f"{found.card.label}-{identity}"
    return _Todo(job, found, parts(job, found), begun, writable_folder(folder))


def _starts(job: TrainJob) -> dict[int, Loaded]:
    """The autoencoders to go on from, if there are any, fit for the model."""
    if job.start is None:
        return {}
    card = twins.in_the_originals_place(describe(job.model)[0])
    asked = job.extract.layers if job.layers == "all" else job.layers
    layers = tuple(range(card.num_layers)) if asked == "all" else tuple(sorted(asked))
    found = starts(job.start, layers)
    for loaded in found.values():
        check_start(job.start, loaded, job.train.coder, card)
    return found


def _measured(
    todo: _Todo, before: Result | None, device: torch.device, log: TrainLog, report: Report
) -> Result:
    """Trained (or, where only other held-out data is asked for, taken up), measured and saved."""
    folders = {layer: todo.folder / layer_name(layer) for layer in todo.layers}
    if before is None:
        saes, spent = _trained(todo, device, log, report)
    else:
        saes, spent = {k: load_sae(folder).sae.to(device) for k, folder in folders.items()}, before
    metrics = measure(todo.job, todo.found, todo.rows.held_out, saes, report)
    for layer, sae in saes.items():
        known = about(todo.job, todo.found, layer, len(todo.rows.train), metrics[layer])
        save_sae(folders[layer], sae, known)
    result = spent.model_copy(update={"evaluate": todo.job.evaluate.hash, "metrics": metrics})
    write_json(todo.folder / RESULT, result.model_dump(mode="json"))
    shutil.rmtree(todo.checkpoint, ignore_errors=True)
    return result


def _trained(
    todo: _Todo, device: torch.device, log: TrainLog, report: Report
) -> tuple[dict[int, Sae], Result]:
    """Trained to the end, with its curve beside it."""
    job = todo.job
    trainer = Trainer(
        todo.rows.train,
        todo.rows.validation,
        job.train,
        Seed(job.seed).child("sae"),
        device,
        {layer: one.sae for layer, one in todo.starts.items()},
    )
    told = Told(report, f"{todo.label}: train", job.train.epochs)
    ran = run_trainer(trainer, todo.checkpoint, job.checkpoint_minutes, log.follow, told)
    save_curves(todo.folder / CURVES, ran.curves)
    spent = Result(
        evaluate="",
        metrics={},
        rows=todo.num_rows,
        steps=trainer.steps,
        epochs=trainer.epochs_done,
        seconds=ran.seconds,
    )
    return trainer.hand_over(), spent


def _finished(folder: Path) -> Result | None:
    path = folder / RESULT
    return build(Result, read_settings(path), where=str(path)) if path.is_file() else None


def _outcome(todo: _Todo, result: Result, run_id: str, uri: str, *, reused: bool) -> Trained:
    coders = {layer: todo.folder / layer_name(layer) for layer in todo.layers}
    exports: dict[int, Path] = {}
    if todo.job.export == "sparsify":
        for layer, folder in coders.items():
            exports[layer] = export_sparsify(todo.folder / EXPORTS, *load_sae(folder))
    figures = sorted((todo.folder / FIGURES).glob("*.png"))
    return Trained(
        todo.found.card, todo.folder, coders, exports, result, figures, reused, run_id, uri
    )


def _files(todo: _Todo, result: Result, curves: Sequence[Point]) -> list[tuple[Path, str]]:
    """Figures and tables, with the artifact folder of each. Weights stay where they are."""
    config = todo.job.train.coder
    subtitle = f"{todo.label}, {said(config)}, {len(todo.rows.train):,} training rows"
    drawn = draw_training(by_metric(curves), result.metrics, subtitle, todo.folder / FIGURES)
    return [
        *((path, "figures") for path in drawn),
        (todo.folder / CURVES, "tables"),
        (todo.folder / RESULT, "tables"),
    ]


def _tags(todo: _Todo) -> dict[str, str]:
    """What runs are searched and grouped by."""
    card, job = todo.found.card, todo.job
    coder = job.train.coder
    return model_tags(card, twins.original(card)) | {
        "layers": ",".join(map(str, todo.layers)),
        "kind": coder.kind,
        "width": str(coder.width),
        "sae_folder": str(todo.folder),
        "started_from": str(job.start or ""),
        "git_commit": git_commit(),
        "config_hash": content_hash(job.model_dump(mode="json", exclude={"out", "tracking_uri"})),
        "data_hash": todo.found.data_hash,
    }


def _params(todo: _Todo) -> dict[str, Any]:
    return flat(todo.job.model_dump(mode="json", exclude={"model", "out", "tracking_uri"}))


def _dataset(todo: _Todo) -> tuple[str, str, str, dict[str, int]]:
    manifest = todo.found.scenarios.manifest
    return manifest.source, todo.found.data_hash, manifest.data, todo.num_rows
