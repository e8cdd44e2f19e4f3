"""Twins: for each of the 23 models a random one of the same class, a few MB on disk.

A twin runs the code that its original runs (architecture, layout of the checkpoint, quantisation,
tokenizer with or without BOS) and shows that it runs, on any laptop. Its weights are random numbers:
whatever is measured on a twin is a test of the platform and never a finding.

Twins are Hugging Face folders, `OUT/<last part of the id>`. Each draws every weight from a seed of
its own name, so that the members of a family differ in weights and share shape and tokenizer. A
twin is written beside its place and moved there when it is finished, with `twin.json` to say what
it is; one that is there, whole and of the same recipe is reused.

Cost: 0.1 to 0.3 s each; 101 MB on disk for all.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from trimtab.core.errors import DataError, ModelError, OutputError
from trimtab.core.files import writable_folder, write_json
from trimtab.core.hashing import content_hash
from trimtab.core.seeds import Seed
from trimtab.models.registry import REGISTRY, KnownModel
from trimtab.models.twin_shapes import SHAPES, published
from trimtab.models.twin_text import dressed, train_ordinary
from trimtab.models.twin_weights import WEIGHTS, pack_experts, random_model

RECIPE: Final = 1
"""Raised when a change of the code changes the files, so that old twins are not reused."""
STAMP: Final = "twin.json"
"""The file that says that a folder is a finished twin, and of what."""

Progress = Callable[[str, int, int], None]
"""Called as (name of the twin just finished, twins made now, of how many)."""


class Twin(NamedTuple):
    """A finished twin, as its stamp says."""

    of: str
    """Id of the model that it stands for."""
    folder: Path
    """Where it is."""
    family: str
    """The original's."""
    group: str
    """The original's."""
    kind: str
    """Class in transformers that the checkpoint names."""
    precision: str
    """What its weights are held in on disk."""
    num_layers: int
    """Decoder blocks."""
    parameters: int
    """Of the whole checkpoint, a vision part included."""
    num_bytes: int
    """Of the weights' file."""
    reused: bool
    """Whether it had been there before."""


_TOLD: Final = tuple(name for name in Twin._fields if name not in ("folder", "reused"))


def make_twins(
    out: Path,
    texts: Sequence[str],
    models: Sequence[str] = tuple(REGISTRY),
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> list[Twin]:
    """Makes the twins that are not there yet; the same input gives the same bytes.

    Args:
        out: the folder that the twins' folders are in.
        texts: what the tokenizers are trained on.
        models: ids of the registry.
        seed: seed of all weights.
        progress: called after each twin that had to be made.

    Returns:
        The twins in the order asked for.

    Raises:
        ModelError: a model that is not in the registry.
        DataError: no texts.
        OutputError: the folder cannot be written, or something that is no twin is in the way.
    """
    wanted = [_known(model) for model in models]
    if not any(text.strip() for text in texts):
        raise DataError("The twins' tokenizers learn from texts, but got none. Give them some.")
    writable_folder(out)
    read = content_hash(list(texts))
    recipes = {known.id: _recipe(known, read, seed) for known in wanted}
    found = {known.id: _finished(out, known, recipes[known.id]) for known in wanted}
    missing = [known for known in wanted if found[known.id] is None]
    if missing:
        ordinary, root = train_ordinary(texts), Seed(seed).child("twins")
        for done, known in enumerate(missing, 1):
            _make(out, known, ordinary, root.child(known.id), recipes[known.id])
            progress(folder_name(known.id), done, len(missing))
    return [found[known.id] or _stamped(out, known)._replace(reused=False) for known in wanted]


def read_twin(folder: Path) -> Twin | None:
    """What a folder is the twin of; None if it is no twin."""
    stamp = _read_stamp(folder)
    if stamp is None:
        return None
    return Twin(**{name: stamp[name] for name in _TOLD}, folder=folder, reused=True)


def folder_name(model: str) -> str:
    """What the folder of a model's twin is called."""
    return model.rsplit("/", 1)[-1]


def _known(model: str) -> KnownModel:
    if model in REGISTRY:
        return REGISTRY[model]
    near = get_close_matches(model, REGISTRY, n=1, cutoff=0.0)
    raise ModelError(
        f"There is a twin for each model that `trimtab models` lists, but {model!r} is not among "
        f"them. The nearest is {near[0]}."
    )


def _recipe(known: KnownModel, read: str, seed: int) -> str:
    """Content hash of all that decides a twin's bytes."""
    shape = SHAPES[known.family]
    return content_hash([RECIPE, known.id, known.architecture, known.precision, shape, read, seed])


def _finished(out: Path, known: KnownModel, recipe: str) -> Twin | None:
    """The twin that is there, if it is whole and of this recipe."""
    folder = out / folder_name(known.id)
    stamp = _read_stamp(folder)
    if stamp is None or stamp["recipe"] != recipe:
        return None
    whole = all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in stamp["files"].items()
    )
    return read_twin(folder) if whole else None


def _stamped(out: Path, known: KnownModel) -> Twin:
    twin = read_twin(out / folder_name(known.id))
    assert twin is not None, "it was made a moment ago"
    return twin


def _read_stamp(folder: Path) -> dict[str, Any] | None:
    path = folder / STAMP
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _make(out: Path, known: KnownModel, ordinary: Tokenizer, seed: Seed, recipe: str) -> None:
    """Writes a twin beside its place and moves it there."""
    target = out / folder_name(known.id)
    if target.exists() and not (target / STAMP).is_file():
        raise OutputError(
            f"A twin of {known.id} belongs into {target}, but what is there is no twin (it has no "
            f"{STAMP}). Choose another folder, or move it away."
        )
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=out) as temporary:
            fresh = Path(temporary) / target.name
            fresh.mkdir()
            _stamp(fresh, known, recipe, _write(fresh, known, ordinary, seed))
            shutil.rmtree(target, ignore_errors=True)
            fresh.replace(target)
    except OSError as error:
        raise OutputError(
            f"{target} could not be written: {error.strerror or error}. "
            "Free some disk space or choose another folder, and run the same command again."
        ) from error


def _write(folder: Path, known: KnownModel, ordinary: Tokenizer, seed: Seed) -> PreTrainedModel:
    """Everything but the stamp. The model is built from the configuration as a reader reads it."""
    tokenizer = dressed(ordinary, known.architecture)
    tokenizer.save_pretrained(folder)
    config = published(known, tokenizer)
    write_json(folder / "config.json", config)
    model = random_model(folder, seed)
    model.save_pretrained(folder)  # in the keys of the hub: one per expert for qwen3_moe
    if known.precision == "mxfp4":
        pack_experts(folder / WEIGHTS)
    write_json(folder / "config.json", config)  # save_pretrained wrote one in today's form
    return model


def _stamp(folder: Path, known: KnownModel, recipe: str, model: PreTrainedModel) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    write_json(
        folder / STAMP,
        {
            "of": known.id,
            "random": "These weights are random numbers: nothing measured on them is a finding.",
            "family": known.family,
            "group": known.group,
            "kind": type(model).__name__,
            "precision": known.precision,
            "num_layers": SHAPES[known.family].num_layers,
            "parameters": model.num_parameters(),
            "num_bytes": (folder / WEIGHTS).stat().st_size,
            "recipe": recipe,
            "files": {path.name: path.stat().st_size for path in files},
        },
    )
