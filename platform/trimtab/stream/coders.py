"""Sparse autoencoders between the rooms: rows to train on, weights to go on from, what they reach.

`trimtab train` and a sweep's trial are made of these. Nothing here trains (`trimtab.sae.training`)
or starts Ray.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from trimtab.core.errors import CoderError, ConfigError
from trimtab.core.progress import Report
from trimtab.core.rows import SPLITS
from trimtab.core.seeds import Seed
from trimtab.evaluation.recovered import recovered
from trimtab.models.card import ModelCard
from trimtab.models.engine import Prompt
from trimtab.models.loading import load, read_tokenizer
from trimtab.models.tokens import tokenise
from trimtab.sae.about import About, Loaded
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.evaluate import quality
from trimtab.sae.folder import load_sae
from trimtab.sae.rows import LayerRows, stored_rows
from trimtab.scenarios.prompts import prompts
from trimtab.stream.activations import Activations
from trimtab.stream.train_config import SaeJob

log = logging.getLogger(__name__)

Metrics = dict[int, dict[str, float]]
"""Layer -> metric name -> value."""


class Parts(NamedTuple):
    """A store's rows by what they are for; memory-mapped."""

    train: LayerRows
    """Trained on."""
    validation: LayerRows
    """Looked at while training."""
    held_out: LayerRows
    """What a finished autoencoder is measured on."""


def layers_of(job: SaeJob, found: Activations) -> tuple[int, ...]:
    """The layers that get an autoencoder each, ascending."""
    return found.store.layers if job.layers == "all" else tuple(sorted(job.layers))


def parts(job: SaeJob, found: Activations) -> Parts:
    """A store's rows, by split.

    Raises:
        StoreError: a layer that was not extracted, or a damaged shard.
        ConfigError: a split that has no row.
    """
    layers = layers_of(job, found)
    rows = stored_rows(found.store, job.extract.pooling, layers, len(found.labels))
    by_split = [rows.take(found.labels.split == code) for code in range(len(SPLITS))]
    for name, of in zip(SPLITS, by_split, strict=True):
        if not len(of):
            raise ConfigError(
                f"Training needs rows of every split, but {name} has none of the {len(rows)} of "
                f"{job.data.path}. Change `data.fractions`, or give more data."
            )
    return Parts(by_split[0], by_split[1], by_split[SPLITS.index(job.evaluate.split)])


def starts(path: Path, layers: Sequence[int]) -> dict[int, Loaded]:
    """The autoencoders to go on from, one for each layer.

    Args:
        path: an autoencoder's own folder, for one layer, or the folder that holds `layers.5` and so
            on, as a training of ours and sparsify's runs do.

    Raises:
        CoderError: no such folder, or one that cannot be read.
        ConfigError: it is of another layer, or one autoencoder is given for several layers.
    """
    inside = {layer: path / layer_name(layer) for layer in layers}
    if any(folder.is_dir() for folder in inside.values()):
        return {layer: load_sae(folder) for layer, folder in inside.items()}
    found = load_sae(path)
    if len(layers) > 1:
        raise ConfigError(
            f"{path} is one autoencoder, but {len(layers)} layers are to be trained "
            f"({', '.join(map(str, layers))}). Name one layer, or give the folder of a training "
            "that has them all."
        )
    if found.about.layer not in (None, layers[0]):
        raise ConfigError(
            f"The autoencoder in {path} is of layer {found.about.layer}, but layer {layers[0]} is "
            "to be trained. Name its own layer."
        )
    return {layers[0]: found}


def coder_of(path: Path) -> CoderConfig:
    """Kind and size of what `starts` finds in a folder, of its first layer.

    Raises:
        CoderError: there is none, or it cannot be read.
    """
    inside = sorted(folder for folder in path.glob("layers.*") if folder.is_dir())
    return load_sae(inside[0] if inside else path).sae.config


def check_start(path: Path, loaded: Loaded, config: CoderConfig, card: ModelCard) -> None:
    """Refuses weights of another size, kind or model than what is to be trained.

    Raises:
        CoderError: names both.
    """
    theirs, about = loaded.sae.config, loaded.about
    if theirs != config:
        raise CoderError(
            f"The autoencoder in {path} is {said(theirs)}, but {said(config)} is to be trained. "
            "Leave kind, width and k to the folder, or train from the beginning."
        )
    if loaded.sae.d_model != card.d_model:
        raise CoderError(
            f"The autoencoder in {path} reads activations of width {loaded.sae.d_model} (model "
            f"{about.model or 'not said'}), but {card.label} has {card.d_model}. Give the one that "
            "was trained on this model."
        )
    if about.model and not _same_model(about, card):
        raise CoderError(
            f"The autoencoder in {path} was trained on the model {about.model}, but {card.id} is to "
            "be read. Give the one that was trained on this model."
        )


def weights_hash(saes: Mapping[int, Sae]) -> str:
    """Content hash of all weights."""
    digest = hashlib.sha256()
    for layer, sae in sorted(saes.items()):
        for name, tensor in sorted(sae.state_dict().items()):
            digest.update(f"{layer}/{name}/{list(tensor.shape)}".encode())
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def measure(
    job: SaeJob, found: Activations, rows: LayerRows, saes: Mapping[int, Sae], report: Report
) -> Metrics:
    """Held-out quality of each layer's autoencoder, every metric under `sae/`.

    Args:
        rows: held-out ones.
        saes: by layer, on the device that they are to run on.
        report: told about progress.

    Raises:
        CoderError: an autoencoder of another width than the rows.
        ModelError: the model cannot be loaded again.
    """
    metrics: Metrics = {}
    label = found.card.label
    for done, (layer, sae) in enumerate(saes.items(), 1):
        metrics[layer] = quality(sae, rows, layer).named()
        report(f"{label}: held-out rows", done, len(saes))
    texts = held_out_texts(job, found)
    if not texts or _streamed(found):
        return metrics
    model = load(job.model.model_copy(update={"id": str(found.folder)}))
    budget = max(job.evaluate.token_budget, max(len(text.tokens) for text in texts))
    stage = f"{label}: held-out texts"
    inside = recovered(model, texts, saes, budget, lambda done, of: report(stage, done, of))
    for layer, one in inside.items():
        named = one.recovered.named() | one.token.named("sae/token/")
        if pooled := metrics[layer].get("sae/l2_norm_in"):
            named["sae/token/norm_ratio"] = one.token.l2_norm_in / pooled
        metrics[layer] |= named
    return metrics


def held_out_texts(job: SaeJob, found: Activations) -> list[Prompt]:
    """Distinct prompts of the held-out split that no training row has, drawn by the job's seed."""
    table = found.scenarios.table
    texts = prompts(table["action"], job.data.prompt)
    trained_on = {t for t, split in zip(texts, table["split"], strict=True) if split == "train"}
    ids = {
        text: scenario
        for text, split, scenario in zip(texts, table["split"], table["scenario_id"], strict=True)
        if split == job.evaluate.split and text not in trained_on
    }
    order = Seed(job.seed).child("held-out texts").numpy().permutation(len(ids))
    chosen = [list(ids)[i] for i in order[: job.evaluate.texts]]
    if not chosen:
        return []
    tokenizer = read_tokenizer(job.model.model_copy(update={"id": str(found.folder)}))
    return tokenise(tokenizer, chosen, [ids[text] for text in chosen], job.extract.max_tokens)


def about(
    job: SaeJob, found: Activations, layer: int, rows: int, metrics: Mapping[str, float]
) -> About:
    """What is written down beside an autoencoder."""
    return About(
        model=found.card.id,
        revision=found.card.revision,
        layer=layer,
        pooling=job.extract.pooling,
        prompt=job.data.prompt,
        data_hash=found.data_hash,
        rows=rows,
        training=job.train.model_dump(mode="json") | {"seed": job.seed},
        quality=dict(metrics),
        provenance={"activations": found.identity},
    )


def device_named(name: str) -> torch.device:
    """`auto` is the first GPU where there is one.

    Raises:
        ConfigError: a GPU was asked for and none is there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Training on a GPU was asked for, but this process sees none.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def layer_name(layer: int) -> str:
    """The folder of a layer's autoencoder; sparsify calls them alike."""
    return f"layers.{layer}"


def said(config: CoderConfig) -> str:
    """A coder's kind and size in words."""
    active = f", k {config.k}" if config.kind in ("topk", "batchtopk") else ""
    return f"{config.kind}, width {config.width}{active}"


def _same_model(about: About, card: ModelCard) -> bool:
    """Whether a folder means this model: by revision, or for a hub's by name without its owner."""
    if about.revision and Path(card.id).is_dir():
        return about.revision == card.revision
    said, real = (name.rstrip("/").rpartition("/")[2].lower() for name in (about.model, card.id))
    return said in (real, card.label.lower())


def _streamed(found: Activations) -> bool:
    if found.store.manifest.provenance.get("block_source") != "streamed":
        return False
    log.warning(
        "%s was read block by block because it does not fit in memory, so the cross-entropy "
        "recovered, which needs all of it, is left out.",
        found.card.label,
    )
    return True
