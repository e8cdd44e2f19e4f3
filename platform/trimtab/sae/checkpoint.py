"""A training on disk: one file, finished or not there.

Everything that the next step depends on: weights, AdamW's moments, lambda, silent rows, running
sums, and the place in the stream. Written as one safetensors file, so that a kill while writing
leaves the last good one.

Cost: 12 bytes a weight, at the disk's speed.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.core.errors import CoderError
from trimtab.core.files import finished_file, writable_folder
from trimtab.sae.layer import LayerTraining

FILE = "training.safetensors"
STATE = "trimtab"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


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


def read(folder: Path, layers: dict[int, LayerTraining]) -> dict[str, Any]:
    """Puts a written state into layers of the same shapes; returns the place in the stream.

    Raises:
        CoderError: there is no checkpoint, or it is of another coder or of other layers.
    """
    path = folder / FILE
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()[STATE])
            for layer, training in layers.items():
                _restore(training, layer, state["layers"].get(str(layer)), file, path)
    except (SafetensorError, OSError) as error:
        raise CoderError(
            f"The checkpoint {path} cannot be read ({error}). Start the training anew."
        ) from error
    return state["place"]


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
        "coder": state.config.coder.model_dump(mode="json"),
        "scale": state.scale,
        "variance": state.variance,
        "penalty": state.penalty,
        "good_epochs": state.good_epochs,
    }


def _restore(
    state: LayerTraining,
    layer: int,
    numbers: dict[str, Any] | None,
    file: Any,  # noqa: ANN401 - safetensors has no public type for an open file
    path: Path,
) -> None:
    coder = state.config.coder.model_dump(mode="json")
    if numbers is None or numbers["coder"] != coder:
        held = "not there" if numbers is None else numbers["coder"]
        raise CoderError(
            f"The checkpoint {path} must hold layer {layer} of a coder {coder}, but that is "
            f"{held}. Train it under its own configuration or into another folder."
        )
    state.scale, state.variance = numbers["scale"], numbers["variance"]
    state.penalty, state.good_epochs = numbers["penalty"], numbers["good_epochs"]
    prefix = f"{layer}/"
    names = {key.removeprefix(prefix) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    for name, tensor in state_tensors(state).items():
        if name in names:
            tensor.copy_(file.get_tensor(prefix + name))
    device = state.sae.center.device
    for name, weight in state.weights.items():
        if f"{name}.step" in names:
            state.optimiser.state[weight] = {
                moment: file.get_tensor(f"{prefix}{name}.{moment}").to(device) for moment in MOMENTS
            }
