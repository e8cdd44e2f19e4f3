"""What is known about an autoencoder besides its weights: where it reads a model, what it saw.

Steps after training need it: which layer to edit, which store to evaluate on, how it was trained.
A folder that SAELens or sparsify wrote says less; a field that it is silent about keeps its
default.
"""

import re
from typing import Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt

from trimtab.core.config import Config
from trimtab.sae.coder import Sae
from trimtab.store.layout import hook_points

Writer = Literal["trimtab", "saelens", "sparsify"]

_OUTPUT_OF = re.compile(r"(?:model\.)?layers\.(\d+)|blocks\.(\d+)\.hook_resid_post")
_INPUT_OF = re.compile(r"blocks\.(\d+)\.hook_resid_pre")


class About(Config):
    """Where an autoencoder belongs and how it came about."""

    model: str = ""
    """Id of the model whose activations it reads; empty where the folder does not say."""
    revision: str = ""
    """The model's revision, or its folder's fingerprint."""
    layer: NonNegativeInt | None = None
    """The block whose output it reads, from 0; None where the folder names another place or none."""
    pooling: str = "token"
    """How a row came from a prompt's tokens: one of the store's poolings, or `token`."""
    prompt: str = ""
    """The template that every action was put into."""
    data_hash: str = ""
    """Content hash of the rows it was trained on and how they were asked."""
    rows: NonNegativeInt = 0
    """Rows it was trained on; a row that was seen in several epochs counts once."""
    training: dict[str, Any] = Field(default_factory=dict)
    """The training's configuration, as JSON has it."""
    quality: dict[str, float] = Field(default_factory=dict)
    """Its figures on held-out rows, by metric name."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """What happened when it was made: versions, commit, steps, seconds."""
    written_by: Writer = "trimtab"
    """Whose format the folder has."""

    @property
    def hook_points(self) -> tuple[str, str] | None:
        """What Hugging Face and TransformerLens call the place, in this order."""
        return None if self.layer is None else hook_points(self.layer)


class Loaded(NamedTuple):
    """An autoencoder as a folder had it."""

    sae: Sae
    """On the host, in float32."""
    about: About
    """What the folder says about it."""


def layer_of_hook(name: str) -> int | None:
    """The block whose output a hook point is, by any of the names in use; None if it is none.

    The state before block 6 is the output of block 5.
    """
    if found := _OUTPUT_OF.fullmatch(name):
        return int(found[1] or found[2])
    found = _INPUT_OF.fullmatch(name)
    return int(found[1]) - 1 if found and int(found[1]) > 0 else None
