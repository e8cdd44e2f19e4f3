"""The coders of a steering sweep: each layer's autoencoder before and after alignment.

Either they are there, and `described` says what they are from their settings alone (a coder of
65,536 latents has 2 GB of weights), so that one of another width, model or layer is refused before
the first trial; or they are made, by the drivers that `trimtab train` and `trimtab align` run,
whose folders are named by what made them and reused.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from trimtab.core.errors import CoderError
from trimtab.core.files import writable_folder
from trimtab.core.hashing import content_hash
from trimtab.core.seeds import Seed
from trimtab.edits.align import align
from trimtab.locate.folds import Data
from trimtab.locate.latents import locate
from trimtab.models.loading import ModelConfig
from trimtab.sae.about import layer_of_hook
from trimtab.sae.files import count, read_settings
from trimtab.sae.folder import ABOUT, load_sae, save_sae
from trimtab.sae.rows import stored_rows
from trimtab.sae.saelens import SETTINGS
from trimtab.stream.activations import Activations, activations
from trimtab.stream.config import ExtractJob
from trimtab.stream.steer_config import LAYER, MadeCoders, SteerConfig
from trimtab.stream.tasks import Report
from trimtab.stream.train import train
from trimtab.stream.train_config import TrainJob

ALIGNMENT_VERSION = 1
"""Raised whenever the same configuration begins to give other aligned coders."""


class Patterns(NamedTuple):
    """Where coders are, with `{layer}` in the place of the layer's number."""

    aligned: str
    """The aligned ones."""
    unaligned: str
    """What they were before; empty where there are none."""

    def folders(self, layer: int) -> dict[str, Path]:
        """The folders of one layer, by what they are."""
        named = {"aligned": self.aligned, "unaligned": self.unaligned}
        return {name: Path(at.replace(LAYER, str(layer))) for name, at in named.items() if at}


class Described(NamedTuple):
    """What a coder's settings say of it."""

    d_model: int
    """Width of the activations it reads."""
    width: int
    """Latents; 0 where they do not say."""
    model: str
    """Whose activations; empty where they do not say."""
    layer: int | None
    """Which block's output; None where they do not say."""


def described(path: Path) -> Described:
    """What a coder is, without reading its weights.

    Raises:
        CoderError: there is no coder.
    """
    if not (path / SETTINGS).is_file():
        raise CoderError(
            f"There must be an autoencoder in {path}, but there is no {SETTINGS}. Check `coders`: "
            f"{LAYER} stands for the layer's number."
        )
    settings = read_settings(path / SETTINGS)
    about = read_settings(path / ABOUT)["about"] if (path / ABOUT).is_file() else {}
    said = settings.get("metadata") or {}
    width = next((int(settings[key]) for key in ("d_sae", "num_latents") if settings.get(key)), 0)
    hook = said.get("hook_name") or path.name
    return Described(
        d_model=count(settings, "d_in", path / SETTINGS),
        width=width,
        model=about.get("model") or said.get("model_name") or "",
        layer=about["layer"] if about.get("layer") is not None else layer_of_hook(hook),
    )


def check_coder(path: Path, layer: int, d_model: int, model: str) -> Described:
    """Refuses a coder of another width, model or layer.

    Args:
        layer: where it is to be put.
        d_model: of the model.
        model: the model's id or name.

    Raises:
        CoderError: names both.
    """
    found = described(path)
    whose = f" (model {found.model})" if found.model else ""
    if found.d_model != d_model:
        raise CoderError(
            f"The autoencoder in {path} is of d_model={found.d_model}{whose}, but {model} has "
            f"{d_model=}. Give one that was trained on {model}."
        )
    if found.model and _last(found.model) != _last(model):
        raise CoderError(
            f"The autoencoder in {path} was trained on the model {found.model}, but {model} is to "
            f"be steered. Give one that was trained on {model}."
        )
    if found.layer is not None and found.layer != layer:
        raise CoderError(
            f"The autoencoder in {path} was trained at layer {found.layer}, but is to be put at "
            f"layer {layer}. Check `coders`: {LAYER} stands for the layer's number."
        )
    return found


def _last(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].lower()


def made(config: SteerConfig, spec: ModelConfig, out: Path, report: Report) -> Patterns:
    """Trains and aligns a coder for each layer that is read, where they are not there yet.

    Args:
        spec: the model, where it lies.
        out: the folder of runs.

    Raises:
        TrimtabError: something the user can mend.
    """
    coders = config.coders
    assert coders.kind == "made", "folders are there"
    shared = {"data": config.data, "extract": coders.extract, "workers": coders.workers, "out": out}
    trained = train(TrainJob(model=spec, train=coders.train, seed=coders.seed, **shared), report)
    identity = content_hash(
        [ALIGNMENT_VERSION, trained.folder.name, coders.align.model_dump(mode="json"), coders.seed]
    )
    folder = out / "aligned" / f"{trained.card.label}-{identity}"
    missing = {k: at for k, at in trained.coders.items() if not _is_there(folder / f"layers.{k}")}
    if missing:
        found = activations(spec, ExtractJob(**shared), report)
        for done, (layer, path) in enumerate(missing.items(), 1):
            _align(coders, found, layer, path, folder / f"layers.{layer}")
            report(f"{trained.card.label}: align", done, len(missing))
    return Patterns(str(folder / f"layers.{LAYER}"), str(trained.folder / f"layers.{LAYER}"))


def _is_there(folder: Path) -> bool:
    return (folder / ABOUT).is_file()


def _align(coders: MadeCoders, found: Activations, layer: int, path: Path, target: Path) -> None:
    """One layer: moral latents found on validation rows, trained, and the coder saved."""
    loaded = load_sae(path)
    sae = loaded.sae.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    rows = stored_rows(found.store, coders.extract.pooling, found.store.layers, len(found.labels))
    _, prompt = np.unique(found.scenarios.table["action"].to_numpy(), return_inverse=True)
    data = Data(rows, layer, found.labels, prompt)
    seed = Seed(coders.seed).child(f"align/{layer}")
    validation = data.of_split(1)
    located = locate(sae, validation, coders.align.latents, seed.child("locate"))
    aligned = align(sae, located, data.of_split(0), validation, coders.align, seed)
    told = {"unaligned": str(path), "align": coders.align.model_dump(mode="json")}
    told |= {"epoch": aligned.best, "trained": len(aligned.trained)}
    about = loaded.about.model_copy(update={"provenance": loaded.about.provenance | told})
    save_sae(writable_folder(target), aligned.sae, about)
