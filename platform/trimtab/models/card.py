"""Which model, how it is held, and what is known of it: records alone, so that what only names models
need not import what runs them (transformers takes 2.5 s, in every process).
"""

from typing import Final, Literal, NamedTuple

from trimtab.core.config import Config
from trimtab.models.registry import Group

PLAIN: Final = ("float32", "bfloat16", "float16")
"""Dtypes that weights are held in and computed with as they are."""


class ModelConfig(Config):
    """Which model, and how it is held."""

    id: str
    """Hugging Face id or a folder in Hugging Face layout."""
    revision: str | None = None
    """Commit, branch or tag on the hub; the default is the main branch, recorded as a commit."""
    name: str | None = None
    """What runs and figures call it; the default is the last part of the id."""
    group: Group | None = None
    """base, instruct or guard; the default is what the registry says, else `other`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What it computes in. `auto` is what the checkpoint was published in."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is the GPUs that this process sees, else the CPU."""
    precision: Literal["published", "nf4"] = "published"
    """How weights are held: as published (bfloat16, MXFP4, ...), or linear layers and experts in
    NF4 (bitsandbytes, blocks of 64, double quantisation), which is not exact."""
    source: Literal["auto", "resident", "streamed"] = "auto"
    """Where blocks come from: all held in memory, or read from the checkpoint one at a time (same
    bits, any size). `auto` is what the plan picks."""
    num_gpus: float | None = None
    """GPUs that one replica gets; a fraction packs several small models on one. The default is
    what the plan says."""

    @property
    def label(self) -> str:
        """What runs and figures call it."""
        return self.name or self.id.rstrip("/").rsplit("/", 1)[-1]

    def given(self, num_gpus: float) -> "ModelConfig":
        """As a worker loads it that was given so many GPUs: from one without, Ray hides none."""
        elsewhere = num_gpus > 0 or self.device != "auto"
        return self if elsewhere else self.model_copy(update={"device": "cpu"})


class ModelCard(NamedTuple):
    """What is known of a model without reading its weights."""

    label: str
    """What runs and figures call it."""
    id: str
    """As it was asked for."""
    revision: str
    """The hub's commit, or the fingerprint of a folder."""
    architecture: str
    """`model_type` of its configuration."""
    group: str
    """base, instruct, guard or other."""
    family: str
    """Models to be compared with each other; the architecture where the registry says nothing."""
    num_layers: int
    """Decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    parameters: int
    """Counted on the meta device."""
    dtype: str
    """What it will compute in."""
    tokenizer_hash: str
    """Content hash of the tokenizer."""
    precision: str = ""
    """What its weights are held in: a dtype, nf4, mxfp4, ...; empty in records that are older."""
    context: int | None = None
    """Tokens that its positions were made for; None where its configuration does not say."""

    @property
    def identity(self) -> dict[str, str | int]:
        """What makes two models' activations the same, as far as the model goes."""
        plain: dict[str, str | int] = {
            "revision": self.revision,
            "tokenizer": self.tokenizer_hash,
            "dtype": self.dtype,
        }
        quantised = self.precision and self.precision not in PLAIN
        return plain | {"precision": self.precision} if quantised else plain
