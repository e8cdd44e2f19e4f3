"""A model quantised once and for all: loaded in NF4, written, and read by anybody after that.

So that a cluster quantises once. The folder holds bitsandbytes' names, the tokenizer and the chat
template; it appears under its name only when it is whole. The model is never run in between.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from trimtab.core.errors import ConfigError, OutputError
from trimtab.models.card import ModelConfig
from trimtab.models.held import Held, held_bytes
from trimtab.models.loading import DTYPES, describe, load_weights

log = logging.getLogger(__name__)

SHARD = "4GB"
"""Largest file of weights."""


class Saved(NamedTuple):
    """A quantised folder."""

    folder: Path
    """Where it is."""
    bytes_before: int
    """What the weights take in the dtype they were published in."""
    held: Held
    """What they take now, by precision."""


def save_quantized(spec: ModelConfig, out: Path) -> Saved:
    """Quantises a model to NF4 and writes it.

    Args:
        spec: the model; its `precision` does not count.
        out: a folder that does not exist, or an empty one.

    Raises:
        ConfigError: the model is quantised already.
        ModelError: as `load`.
        OutputError: the folder is not empty, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} must not exist or be an empty folder. Give another --out.")
    card, tokenizer = describe(spec.model_copy(update={"precision": "published"}))
    if card.precision not in DTYPES:
        raise ConfigError(
            f"{spec.id} is quantised already ({card.precision}). Use it as it is: nothing would be "
            "gained by quantising it again."
        )
    model = load_weights(spec.model_copy(update={"precision": "nf4"}))
    held = held_bytes(model)
    log.info("%s: %s", spec.label, held)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        model.save_pretrained(partial, save_original_format=False, max_shard_size=SHARD)
        tokenizer.save_pretrained(partial)
        partial.replace(out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Saved(out, card.parameters * DTYPES[card.dtype].itemsize, held)
