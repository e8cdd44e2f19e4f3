"""A model's configuration from where it is to be had without a network, if it is."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import PretrainedConfig

from trimtab.models.card import ModelConfig
from trimtab.models.loading import read_config
from trimtab.models.registry import REGISTRY
from trimtab.models.shapes import known_config


def config_of(spec: ModelConfig) -> PretrainedConfig:
    """A model's configuration: its own where this machine has it, else what the registry knows.

    The hub is asked only for a model that is neither a folder, nor cached, nor one of the 23.

    Raises:
        ModelError: there is no such model, or no network to ask for it.
    """
    cached = local_folder(spec)
    if cached is not None:
        return read_config(spec.model_copy(update={"id": str(cached)}))
    return known_config(REGISTRY[spec.id]) if spec.id in REGISTRY else read_config(spec)


def local_folder(spec: ModelConfig) -> Path | None:
    """Where a model's configuration lies on this machine; None if it would have to be fetched."""
    folder = Path(spec.id).expanduser()
    if folder.is_dir():
        return folder
    if spec.id.count("/") != 1 or spec.id.startswith((".", "/", "~")):
        return None
    found = try_to_load_from_cache(spec.id, "config.json", revision=spec.revision)
    return Path(found).parent if isinstance(found, str) else None
