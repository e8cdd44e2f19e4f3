"""An autoencoder beside the rows that it reads, checked against each other.

What `trimtab locate`, `trimtab align` and a sweep's study begin with. All that can be wrong is found
before a row is extracted: a folder that is no autoencoder, one of another model, width or layer.
"""

import logging
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from trimtab.core.errors import CoderError, ConfigError, DataError
from trimtab.core.files import writable_folder
from trimtab.core.progress import Report
from trimtab.core.rows import SPLITS
from trimtab.locate.folds import Data
from trimtab.models.card import ModelCard, ModelConfig
from trimtab.models.loading import describe
from trimtab.sae.about import About, Loaded
from trimtab.sae.coder import Sae
from trimtab.sae.folder import load_sae
from trimtab.sae.rows import stored_rows
from trimtab.store.layout import MANIFEST
from trimtab.store.manifest import load_manifest
from trimtab.store.writer import Writer
from trimtab.stream import twins
from trimtab.stream.activations import Activations, activations
from trimtab.stream.coders import check_start, device_named, weights_hash
from trimtab.stream.machine import known_machine
from trimtab.stream.moral_config import MoralJob
from trimtab.stream.publish import git_commit, model_tags
from trimtab.stream.scenarios import read
from trimtab.stream.tasks import resolved, task

log = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = range(len(SPLITS))


class Opened(NamedTuple):
    """An autoencoder and its rows."""

    sae: Sae
    """On the device that it is to run on."""
    about: About
    """What its folder says."""
    layer: int
    """The layer it reads."""
    found: Activations
    """The model's store and scenarios."""
    data: Data
    """All rows of the layer."""

    @property
    def identity(self) -> list[object]:
        """All that decides what is found in it, apart from settings."""
        weights = weights_hash({self.layer: self.sae})
        return [self.found.identity, self.layer, self.sae.config.model_dump(mode="json"), weights]

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of each split."""
        split = self.data.labels.split
        return {name: int((split == code).sum()) for code, name in enumerate(SPLITS)}

    @property
    def repeats(self) -> dict[str, int]:
        """Rows of the held-out splits that repeat an action of a training row."""
        split, prompt = self.data.labels.split, self.data.prompt
        repeated = np.isin(prompt, prompt[split == TRAIN])
        return {SPLITS[s]: int((repeated & (split == s)).sum()) for s in (VALIDATION, TEST)}

    @property
    def dataset(self) -> tuple[str, str, str, dict[str, int]]:
        """As `Tracker.dataset` takes it."""
        manifest = self.found.scenarios.manifest
        return manifest.source, self.found.data_hash, manifest.data, self.num_rows

    def tags(self, job: MoralJob) -> dict[str, str]:
        """What runs are searched and grouped by."""
        card, coder = self.found.card, self.sae.config
        return model_tags(card, twins.original(card)) | {
            "layers": str(self.layer),
            "kind": coder.kind,
            "width": str(coder.width),
            "sae_folder": str(job.sae),
            "git_commit": git_commit(),
            "config_hash": job.hash,
            "data_hash": self.found.data_hash,
        }


def opened(job: MoralJob, report: Report) -> Opened:
    """Reads the autoencoder, checks it, and extracts its rows where they are not there yet.

    Raises:
        CoderError: no autoencoder, one of another model, width or layer.
        ConfigError: nobody says which layer it reads.
        StoreError: the layer is not extracted, or a shard is damaged.
        DataError: a split that is needed has no rows.
    """
    device = device_named(job.device)
    loaded = load_sae(job.sae)
    layer = layer_of(job, loaded.about)
    job = job.model_copy(update={"out": writable_folder(job.out).resolve()})
    (spec,) = resolved((job.model,), job, report)
    card = twins.in_the_originals_place(describe(spec)[0])
    check_start(job.sae, loaded, loaded.sae.config, card)
    _check_depth(job, layer, card)
    if loaded.about.pooling not in ("token", job.extract.pooling):
        log.warning(
            "The autoencoder in %s was trained on rows pooled by %s, and is looked at on rows "
            "pooled by %s.",
            *(job.sae, loaded.about.pooling, job.extract.pooling),
        )
    found = activations(spec, _from_a_store_that_has(layer, spec, job), report)
    return beside(loaded, layer, found, job, device)


def beside(
    loaded: Loaded, layer: int, found: Activations, job: MoralJob, device: torch.device
) -> Opened:
    """An autoencoder that is known to fit, with the rows of a store that is there.

    Raises:
        StoreError: the layer is not extracted, or a shard is damaged.
        DataError: a split that is needed has no rows.
    """
    rows = stored_rows(found.store, job.extract.pooling, (layer,), len(found.labels))
    data = Data(rows, layer, found.labels, prompts_of(found))
    for code, name in enumerate(SPLITS):
        if not (found.labels.split == code).any():
            raise DataError(
                f"Rows of every split are needed, but {name} has none of the {len(found.labels)} "
                f"of {job.data.path}. Change `data.fractions`, or give more data."
            )
    sae = loaded.sae.to(device).requires_grad_(False)
    return Opened(sae, loaded.about, layer, found, data)


def layer_of(job: MoralJob, about: About) -> int:
    """The layer that an autoencoder reads, by its folder or by the job.

    Raises:
        ConfigError: neither says it.
        CoderError: they differ.
    """
    said, asked = about.layer, job.layer
    layer = said if asked is None else asked
    if layer is None:
        raise ConfigError(
            f"The autoencoder in {job.sae} does not say which layer it reads. Name it with `layer`."
        )
    if said is not None and said != layer:
        raise CoderError(
            f"The autoencoder in {job.sae} reads layer {said}, but layer {layer} is asked for. "
            "Leave the layer to the folder, or give the autoencoder of that layer."
        )
    return layer


def _check_depth(job: MoralJob, layer: int, card: ModelCard) -> None:
    if layer >= card.num_layers:
        raise CoderError(
            f"The autoencoder in {job.sae} reads layer {layer}, but {card.label} has "
            f"{card.num_layers}, counted from 0. Give the model that it was trained on."
        )


def _from_a_store_that_has(layer: int, spec: ModelConfig, job: MoralJob) -> MoralJob:
    """The job with the layers of a finished store that has this one, else with this one alone.

    A training of several layers extracts them together; reading its store again costs nothing,
    extracting one layer by itself costs a pass of the model. Layers that the job names stay.
    """
    if job.extract.layers != "all":
        return job
    with known_machine() as machine:
        todo = task(spec, read(job.data, job.out), job, machine)
    root = job.out / "activations"
    stores = [load_manifest(path.parent) for path in sorted(root.glob(f"*/{MANIFEST}"))]
    for layers in sorted({store.layers for store in stores if layer in store.layers}):
        request = todo.request.model_copy(update={"layers": layers})
        identity = todo.identity | {"request": request.model_dump(mode="json")}
        if Writer(root, identity, (job.extract.pooling,)).finished:
            return _reading(layers, job)
    return _reading((layer,), job)


def _reading(layers: tuple[int, ...], job: MoralJob) -> MoralJob:
    extract = job.extract.model_copy(update={"layers": layers})
    return job.model_copy(update={"extract": extract})


def prompts_of(found: Activations) -> Int[np.ndarray, " n"]:
    """Which distinct action each row asks about."""
    actions = found.scenarios.table["action"].to_numpy()
    return np.unique(actions, return_inverse=True)[1].reshape(-1)
