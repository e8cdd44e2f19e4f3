"""Twins of the 23 models, with tokenizers trained on the packaged corpus.

`twin:Qwen/Qwen3-8B` in a configuration stands for the twin of that model, made on first use. Its
runs carry the family and the group of the model it stands for, the name `Qwen3-8B-twin`, and the
tag `twin_of`: the weights are random, so the numbers are no finding.
"""

from collections.abc import Sequence
from pathlib import Path

from trimtab.models.card import ModelCard, ModelConfig
from trimtab.models.registry import REGISTRY
from trimtab.models.twins import Progress, Twin, folder_name, make_twins, read_twin
from trimtab.scenarios.corpus import corpus_path
from trimtab.scenarios.socialchem import read
from trimtab.stream.config import TWIN


def make(
    out: Path,
    models: Sequence[str] = tuple(REGISTRY),
    progress: Progress = lambda *_: None,
) -> list[Twin]:
    """The twins of models, in `out`; those that are there are reused.

    Raises:
        ModelError: a model that is not in the registry.
        OutputError: the folder cannot be written, or something that is no twin is in the way.
    """
    return make_twins(out, read(corpus_path()).rows["action"].to_list(), models, progress=progress)


def resolve(
    models: tuple[ModelConfig, ...], out: Path, progress: Progress = lambda *_: None
) -> tuple[ModelConfig, ...]:
    """Replaces each `twin:ID` by the folder of the twin.

    Args:
        models: what a configuration asks for.
        out: the folder of runs; the twins are in its `twins`.
        progress: told (name, twins made, of how many).

    Raises:
        ModelError: a model that is not in the registry.
    """
    asked = {model.id: model.id.removeprefix(TWIN) for model in models if _is_ours(model)}
    if not asked:
        return models
    originals = tuple(dict.fromkeys(asked.values()))
    made = dict(zip(originals, make(out / "twins", originals, progress), strict=True))
    return tuple(
        model.model_copy(
            update={
                "id": str(made[asked[model.id]].folder),
                "name": model.name or f"{folder_name(asked[model.id])}-twin",
            }
        )
        if _is_ours(model)
        else model
        for model in models
    )


def in_the_originals_place(card: ModelCard) -> ModelCard:
    """The card of a twin with its original's family and group; any other card as it is."""
    twin = read_twin(Path(card.id))
    if twin is None:
        return card
    group = twin.group if card.group == "other" else card.group
    return card._replace(family=twin.family, group=group)


def original(card: ModelCard) -> str | None:
    """Id of the model that a card's model is the twin of; None if it is no twin."""
    twin = read_twin(Path(card.id))
    return None if twin is None else twin.of


def _is_ours(model: ModelConfig) -> bool:
    return model.id.startswith(TWIN)
