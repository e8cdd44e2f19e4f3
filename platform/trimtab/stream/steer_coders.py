"""The coders of a steering sweep: each layer's autoencoder before and after alignment.

`described` says what they are from their settings alone (a coder of 65,536 latents has 2 GB of
weights), so that one of another width, model or layer is refused before the first trial. Those that
are not there are made by `trimtab.stream.steer_made`.
"""

from pathlib import Path
from typing import Final, NamedTuple

from trimtab.core.errors import CoderError
from trimtab.core.hashing import file_hash
from trimtab.sae.about import layer_of_hook
from trimtab.sae.files import count, read_settings
from trimtab.sae.folder import ABOUT
from trimtab.sae.saelens import SETTINGS
from trimtab.stream.config import NURSERY
from trimtab.stream.steer_config import LAYER, CoderFolders

_ADVICE: Final = f"Check `coders`: {LAYER} stands for the layer's number."

Folders = dict[str, str]
"""`aligned` and perhaps `unaligned` -> the folder of a layer's autoencoder."""


def folders_of(coders: CoderFolders, layer: int) -> Folders:
    """The folders of one layer.

    Raises:
        CoderError: none fits a pattern, or several do.
    """
    patterns = {"aligned": coders.aligned, "unaligned": coders.unaligned}
    return {name: _only(pattern, layer) for name, pattern in patterns.items() if pattern}


def stamp(coders: CoderFolders) -> list[str]:
    """What changes when any coder that fits the patterns does.

    Our records hold checksums of the weights; of another's weights size and time are taken.
    """
    found: list[str] = []
    for pattern in filter(None, (coders.aligned, coders.unaligned)):
        everywhere = Path(pattern.replace(LAYER, "*")).expanduser().resolve()
        for folder in sorted(Path(everywhere.anchor).glob(str(everywhere)[1:])):
            if (folder / ABOUT).is_file():
                found.append(file_hash(folder / ABOUT))
                continue
            files = [(path.name, path.stat()) for path in sorted(folder.glob("*"))]
            found += [f"{folder}/{name} {at.st_size} {at.st_mtime_ns}" for name, at in files]
    return found


def _only(pattern: str, layer: int) -> str:
    path = Path(pattern.replace(LAYER, str(layer))).expanduser().resolve()
    if "*" not in str(path):
        return str(path)
    found = sorted(Path(path.anchor).glob(str(path)[1:]))
    if len(found) != 1:
        raise CoderError(
            f"One folder must fit {path}, but {len(found)} do"
            f"{': ' + ', '.join(map(str, found)) if found else ''}. Say more of its name in `coders`."
        )
    return str(found[0])


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
            f"There must be an autoencoder in {path}, but there is no {SETTINGS}. {_ADVICE}"
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


def check_coder(
    path: Path, layer: int, d_model: int, model: str, advice: str = _ADVICE
) -> Described:
    """Refuses a coder of another width, model or layer.

    Args:
        layer: where it is to be put.
        d_model: of the model.
        model: the model's id or name.
        advice: what to do about another layer.

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
    if found.model and not _same(found.model, model):
        raise CoderError(
            f"The autoencoder in {path} was trained on the model {found.model}, but {model} is to "
            f"be steered. Give one that was trained on {model}, or steer {found.model}."
        )
    if found.layer is not None and found.layer != layer:
        raise CoderError(
            f"The autoencoder in {path} was trained at layer {found.layer}, but is to be put at "
            f"layer {layer}. {advice}"
        )
    return found


def _same(trained_on: str, model: str) -> bool:
    """By the last part of their names; models of the nursery by their training and variant.

    `nursery:VARIANT` says the variant alone.
    """
    one, other = _nursery(trained_on), _nursery(model)
    if one is None or other is None:
        return _last(trained_on) == _last(model)
    return one[1] == other[1] and ("" in (one[0], other[0]) or one[0] == other[0])


def _nursery(model: str) -> tuple[str, str] | None:
    """Training and variant of a model of the nursery."""
    if model.startswith(NURSERY):
        return "", model.removeprefix(NURSERY)
    parts = Path(model).parts
    return (parts[-2], parts[-1]) if parts[-3:-2] == ("nursery",) else None


def _last(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].lower()
