"""What a training of sparse autoencoders is told, beside what decides the activations it reads."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from trimtab.core.config import Config
from trimtab.models.card import ModelConfig
from trimtab.sae.config import TrainConfig
from trimtab.scenarios.subset import SubsetConfig
from trimtab.stream.config import DataConfig, ExtractJob, Split


class AllRows(DataConfig):
    """Which scenarios; unless a subset is asked for, all of them."""

    subset: SubsetConfig | None = None
    """A diagnosis subset in their place. It takes rows of every split."""


class EvaluateConfig(Config):
    """What a finished autoencoder is measured on."""

    split: Split = "test"
    """The held-out rows. Training never reads `test`; `validation` decides when it stops early."""
    texts: NonNegativeInt = 512
    """Most distinct prompts of that split, none of which is trained on, for the cross-entropy
    recovered and for the states of single tokens; 0 leaves both out, and no weight of the model is
    read again."""
    token_budget: PositiveInt = 2_048
    """Most tokens of these in one batch. All latents of its tokens are held at once: at a width of
    65,536 0.5 GB."""


class SaeJob(ExtractJob):
    """One training: the activations, the layers, and how. A sweep varies this record."""

    model: ModelConfig
    """Whose activations."""
    data: AllRows = Field(default_factory=AllRows)  # pyright: ignore[reportIncompatibleVariableOverride]
    """The scenarios."""
    layers: Literal["all"] | tuple[NonNegativeInt, ...] = "all"
    """Layers that get an autoencoder each, trained in one loop; `all` that are extracted."""
    train: TrainConfig
    """What is trained, and how."""
    seed: NonNegativeInt = 0
    """Seed of the first weights and of the order of the rows."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    """What it is measured on."""

    @model_validator(mode="after")
    def _layers_are_extracted(self) -> "SaeJob":
        if self.layers == "all":
            return self
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError(
                f"`layers` must name at least one, and each once, but is {self.layers}"
            )
        read = self.extract.layers
        if read != "all" and (missing := sorted(set(self.layers) - set(read))):
            raise ValueError(
                f"every layer of `layers` must be extracted, but {missing} are not among "
                f"`extract.layers` {list(read)}"
            )
        return self


class TrainJob(SaeJob):
    """Everything that `trimtab train` is told."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What is trained on; `auto` is the first GPU where there is one. Decides no more than
    rounding, and is no part of a training's identity."""
    start: Path | None = None
    """Weights to go on from: a folder of ours (of one layer, or of a whole training), of SAELens or
    of sparsify. The optimiser starts anew."""
    export: Literal["sparsify"] | None = None
    """A further format that is written beside ours, which SAELens reads as it is."""
    checkpoint_minutes: NonNegativeFloat = 5.0
    """Least time between two checkpoints; 0 writes one at every report."""
    tracking_uri: str | None = None
    """MLflow store; the default is MLFLOW_TRACKING_URI, else `mlflow.db` in `out`."""

    @model_validator(mode="after")
    def _exports_what_it_can(self) -> "TrainJob":
        if self.export == "sparsify" and (kind := self.train.coder.kind) != "topk":
            raise ValueError(f"sparsify's format has topk coders only, but the kind is {kind}")
        return self
