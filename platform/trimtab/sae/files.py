"""An autoencoder's files, read and written: what is wrong with one is said by name.

The formats (`trimtab.sae.folder`, `.saelens`, `.sparsify`) say which tensors they want; a tensor
that nobody knows is an error too, because a coder without it would be another function.

Cost: a file is memory-mapped; a check for NaN reads it once.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.core.errors import CoderError, OutputError
from trimtab.core.files import finished_file
from trimtab.sae.coder import CoderConfig, Sae

Shape = tuple[int, ...]


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping a JSON file holds.

    Raises:
        CoderError: the file cannot be read, or holds something else.
    """
    try:
        tree = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CoderError(
            f"{path} must be there, but cannot be read: {error.strerror}. "
            "Copy the autoencoder's folder again, whole."
        ) from error
    except ValueError as error:
        raise CoderError(f"{path} must be JSON, but is not: {error}. Copy it again.") from error
    if not isinstance(tree, dict):
        raise CoderError(f"{path} must hold a JSON object, but holds a {type(tree).__name__}.")
    return tree


def count(settings: Mapping[str, Any], key: str, path: Path) -> int:
    """A whole number above 0 that a format's settings must give.

    Raises:
        CoderError: it is missing or something else.
    """
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise CoderError(f"`{key}` must be a whole number in {path}, but is {value!r}.")
    if value < 1:
        raise CoderError(f"`{key} >= 1` must hold in {path}, but it is {value}.")
    return int(value)


def read_tensors(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Exactly the tensors that are named, in float32.

    Args:
        path: a safetensors file.
        shapes: what it must hold.

    Raises:
        CoderError: the file is missing or damaged, a tensor is missing, unknown, of another
            shape, or not finite.
    """
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            _check_names(path, names, set(shapes))
            tensors = {name: file.get_tensor(name).float() for name in shapes}
    except (SafetensorError, OSError) as error:
        raise CoderError(f"{path} cannot be read ({error}). Copy or train it again.") from error
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise CoderError(
                f"`{name}` must have the shape {list(shapes[name])} in {path}, but has "
                f"{list(tensor.shape)}: its weights and its settings are of two autoencoders."
            )
        if not torch.isfinite(tensor).all():
            raise CoderError(
                f"`{name}` in {path} holds values that are not finite: its training diverged. "
                "Take an earlier checkpoint or train it again with a lower learning rate."
            )
    return tensors


def _check_names(path: Path, names: set[str], wanted: set[str]) -> None:
    if missing := wanted - names:
        raise CoderError(
            f"{path} must hold {', '.join(sorted(wanted))}, but lacks {', '.join(sorted(missing))}."
        )
    if unknown := names - wanted:
        raise CoderError(
            f"{path} holds {', '.join(sorted(unknown))}, which an autoencoder of this kind does "
            f"not have; it has {', '.join(sorted(wanted))}. Such a variant is not supported."
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file in float32, finished or not at all.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    held = {name: tensor.detach().cpu().float().contiguous() for name, tensor in tensors.items()}
    with finished_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors' own files only their owner can read
        try:
            save_file(held, temporary)
        except SafetensorError as error:
            raise OutputError(
                f"{path} could not be written: {error}. Free some disk space or choose another "
                "folder, and run the same command again."
            ) from error
        temporary.chmod(mode)


def build(config: CoderConfig, tensors: Mapping[str, Tensor]) -> Sae:
    """The coder of these weights, which it takes over; what is not given is zero.

    Args:
        config: its kind and size.
        tensors: by the names of `Sae`'s own; `W_enc`, `b_enc`, `W_dec` and `b_dec` are needed.
    """
    width, d_model = tensors["W_enc"].shape
    with torch.device("meta"):
        sae = Sae(config, d_model)
    silent = {"center": torch.zeros(d_model), "threshold": torch.zeros(width)}
    sae.load_state_dict(silent | dict(tensors), assign=True)
    return sae
