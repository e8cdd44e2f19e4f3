"""What locating and aligning are told, beside what decides the activations they read."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from trimtab.edits.align_config import AlignConfig
from trimtab.locate.config import LatentConfig
from trimtab.models.card import ModelConfig
from trimtab.stream.config import ExtractJob
from trimtab.stream.train_config import AllRows


class MoralJob(ExtractJob):
    """An autoencoder, and the rows that it is looked at on.

    With `extract.layers: all`, a finished store that has its layer is read, and where there is none
    that layer alone is extracted.
    """

    model: ModelConfig
    """The model whose layer it reads."""
    data: AllRows = Field(default_factory=AllRows)  # pyright: ignore[reportIncompatibleVariableOverride]
    """The scenarios. Validation rows identify latents, test rows judge them. With
    `split: position`, as published, a fifth of both repeat a training action; `split: action` keeps
    every action on one side."""
    sae: Path
    """The autoencoder's own folder: ours, SAELens' or sparsify's."""
    layer: NonNegativeInt | None = None
    """The layer it reads; null asks its folder."""
    seed: NonNegativeInt = 0
    """Seed of whatever is drawn."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the autoencoder runs on; `auto` is the first GPU where there is one."""
    tracking_uri: str | None = None
    """MLflow store; the default is MLFLOW_TRACKING_URI, else `mlflow.db` in `out`."""


class LocateJob(MoralJob):
    """Everything that `trimtab locate` is told."""

    latents: LatentConfig = Field(default_factory=LatentConfig)
    """What counts as moral."""
    scenarios: PositiveInt = 10
    """Scenarios in the table of what activates a latent most."""


class AlignJob(MoralJob):
    """Everything that `trimtab align` is told."""

    align: AlignConfig = Field(default_factory=AlignConfig)
    """Which latents are trained, and how."""
