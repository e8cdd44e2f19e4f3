"""A training on disk: one file, finished or not there.

Everything that the next step depends on: weights, AdamW's moments, lambda, silent rows, running
sums, and the place in the stream. Written as one safetensors file, so that a kill while writing
leaves the last good one.

Cost: 12 bytes a weight, at the disk's speed.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.core.errors import CoderError
from trimtab.core.files import finished_file, writable_folder
from trimtab.sae.coder import Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.layer import LayerTraining

FILE = "training.safetensors"
STATE = "trimtab"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Restored(NamedTuple):
    """What a checkpoint holds."""

    layers: dict[int, LayerTraining]
    """By layer."""
    place: dict[str, Any]
    """Where in the stream of batches they are, as it was given to `write`."""


def write(folder: Path, layers: dict[int, LayerTraining], place: dict[str, Any]) -> None:
    """Writes the state of all layers and the place in the stream.

    Raises:
        OutputError: the folder cannot be written.
    """
    tensors = {
        f"{layer}/{name}": tensor.detach().contiguous()
        for layer, state in layers.items()
        for name, tensor in state_tensors(state).items()
    }
    numbers = {str(layer): _numbers(state) for layer, state in layers.items()}
    text = json.dumps({"place": place, "layers": numbers})
    with finished_file(writable_folder(folder) / FILE) as temporary:
        save_file(tensors, temporary, metadata={STATE: text})


def read(
    folder: Path,
    layers: tuple[int, ...],
    config: TrainConfig,
    d_model: int,
    device: torch.device,
) -> Restored:
    """Layers as they were written.

    Raises:
        CoderError: there is no checkpoint, or it is of another coder or of other layers.
    """
    path = folder / FILE
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {}).get(STATE, "{}"))
            held = state.get("layers", {})
            _require(held, layers, config, d_model, path)
            found = {k: _layer(file, k, held[str(k)], config, d_model, device) for k in layers}
    except (SafetensorError, OSError) as error:
        raise CoderError(
            f"The checkpoint {path} cannot be read ({error}). Start the training anew."
        ) from error
    return Restored(found, state["place"])


def state_tensors(state: LayerTraining) -> dict[str, Tensor]:
    """Every tensor that the next step depends on, by name."""
    found = {
        **{name: weight.data for name, weight in state.weights.items()},
        "center": state.sae.center,
        "threshold": state.sae.threshold,
        "silent_rows": state.silent_rows,
        "totals": state.totals,
        "active": state.active,
    }
    for name, weight in state.weights.items():
        moments = state.optimiser.state.get(weight, {})
        found |= {f"{name}.{moment}": tensor for moment, tensor in moments.items()}
    return found


def _numbers(state: LayerTraining) -> dict[str, Any]:
    return {
        "coder": _shape(state.config, state.sae.d_model),
        "scale": state.scale,
        "variance": state.variance,
        "penalty": state.penalty,
        "good_epochs": state.good_epochs,
    }


def _shape(config: TrainConfig, d_model: int) -> dict[str, Any]:
    return config.coder.model_dump(mode="json") | {"d_model": d_model}


def _require(
    held: dict[str, Any], layers: tuple[int, ...], config: TrainConfig, d_model: int, path: Path
) -> None:
    wanted = {str(layer): _shape(config, d_model) for layer in layers}
    there = {layer: numbers["coder"] for layer, numbers in held.items()}
    if there != wanted:
        raise CoderError(
            f"The checkpoint {path} must hold the layers and coders {wanted}, but holds {there}. "
            "Go on with the configuration it was written under, or train into another folder."
        )


def _layer(
    file: Any,  # noqa: ANN401 - safetensors has no public type for an open file
    layer: int,
    numbers: dict[str, Any],
    config: TrainConfig,
    d_model: int,
    device: torch.device,
) -> LayerTraining:
    penalty = config.penalty if config.target_l0 is None else numbers["penalty"]
    sae = Sae(config.coder, d_model).to(device)
    state = LayerTraining(
        sae, numbers["scale"], numbers["variance"], config, penalty, numbers["good_epochs"]
    )
    for name, tensor in state_tensors(state).items():
        tensor.copy_(file.get_tensor(f"{layer}/{name}"))
    moved = {key for key in file.keys() if key.endswith(MOMENTS)}  # noqa: SIM118
    for name, weight in state.weights.items():
        keys = {moment: f"{layer}/{name}.{moment}" for moment in MOMENTS}
        if moved.issuperset(keys.values()):
            moments = {moment: file.get_tensor(key).to(device) for moment, key in keys.items()}
            state.optimiser.state[weight] = moments
    return state
