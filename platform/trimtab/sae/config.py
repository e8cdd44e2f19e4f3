"""How a sparse autoencoder is trained.

One closed record. Its defaults are ours; `TrainConfig.li2026` is the study's own recipe, and what
the study leaves out (inputs of unit scale, a tied start, a gradient without the part that the
renormalisation undoes, revived latents) is off there.

Lengths of time are counted in epochs and rows, never in steps, so that another batch size asks for
the same training.
"""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from trimtab.core.config import Config
from trimtab.sae.coder import CoderConfig

Precision = Literal["float32", "bfloat16"]


class StopRule(Config):
    """When training ends before its last epoch."""

    mse: PositiveFloat
    """Validation error that must be fallen below, in the activations' own units squared."""
    l0_tolerance: PositiveFloat = 0.1
    """How far validation L0 may be from `target_l0`, as a share of it."""
    epochs: PositiveInt = 5
    """For how many epochs in a row both must hold."""


class TrainConfig(Config):
    """How a sparse autoencoder is trained."""

    coder: CoderConfig
    """What is trained."""
    epochs: PositiveFloat = 10.0
    """Passes over the training rows; a fraction ends within a pass."""
    batch_size: PositiveInt = 4096
    """Rows of a step. An epoch's last batch is the rows that are left."""
    learning_rate: PositiveFloat = 3e-4
    """AdamW's, at its highest."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's, on every weight."""
    epsilon: PositiveFloat = 1e-8
    """AdamW's addition to the root of the squared gradient's mean."""
    warmup_epochs: NonNegativeFloat = 0.5
    """Epochs in which the learning rate rises linearly from 0."""
    final_share: float = Field(default=0.01, ge=0, le=1)
    """What the cosine leaves of the learning rate at the end, as a share."""
    clip: PositiveFloat | None = 1.0
    """Largest norm of the gradient over all weights; null leaves it as it is."""
    precision: Precision = "float32"
    """Of matrix products; weights, sums and the optimiser are float32 in either."""
    selection: Literal["exact", "bfloat16"] = "exact"
    """Top-k kinds: `bfloat16` finds which latents are active from a product in bfloat16 and
    computes the values of these in float32. The others ignore it."""
    penalty: PositiveFloat = 1e-3
    """Lambda, of `relu` and `jumprelu`; the others ignore it. relu: factor of mean |z| over rows and
    latents. jumprelu: factor of the mean number of active latents of a row. With `target_l0`, where
    it starts."""
    target_l0: PositiveFloat | None = None
    """Active latents of a row that lambda is moved towards once an epoch; null leaves it fixed."""
    bandwidth: PositiveFloat = 0.05
    """jumprelu: width of the window around a threshold in which it has a gradient, in units of the
    pre-activation."""
    unit_scale: bool = True
    """Train on activations divided by the root of their mean variance. The coder is the same
    function of raw ones: its biases and thresholds are multiplied back."""
    tied_start: bool = True
    """The encoder starts as the decoder; otherwise Kaiming-uniform, by its own draw."""
    project_gradient: bool = True
    """Remove what is parallel to a decoder row from its gradient, since its length is fixed."""
    aux_coefficient: NonNegativeFloat = 1 / 32
    """Top-k kinds: factor of the error that dead latents leave of the residual (AuxK); 0 is off."""
    aux_latents: PositiveInt | None = None
    """Dead latents that reconstruct a row's residual; null takes half of d_model."""
    dead_after_rows: PositiveInt = 100_000
    """Training rows without an activation after which a latent counts as dead."""
    stop: StopRule | None = None
    """When to stop early; needs `target_l0` and validation rows."""
    report_steps: PositiveInt = 50
    """Optimiser steps between two reports."""
    validation_rows: PositiveInt = 8192
    """Most validation rows that a report looks at, drawn once."""

    @model_validator(mode="after")
    def _fields_fit(self) -> "TrainConfig":
        coder = self.coder
        if self.target_l0 is not None and coder.kind in ("topk", "batchtopk"):
            raise ValueError(
                f"`target_l0` is for relu and jumprelu, but the coder is {coder.kind}, "
                f"whose `k` ({coder.k}) says how many latents are active"
            )
        if self.target_l0 is not None and self.target_l0 > coder.width:
            raise ValueError(
                "`target_l0 <= width` must hold, but got "
                f"target_l0={self.target_l0:g}, width={coder.width}"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                "`warmup_epochs <= epochs` must hold, but got "
                f"warmup_epochs={self.warmup_epochs:g}, epochs={self.epochs:g}"
            )
        if self.stop is not None and self.target_l0 is None:
            raise ValueError("`stop` compares L0 with `target_l0`, which is not given")
        return self

    @classmethod
    def li2026(cls, width: int = 65_536, target_l0: float = 100.0) -> "TrainConfig":
        """The recipe of Li, Teng and Wang 2026 (METHODS 1.5)."""
        return cls(
            coder=CoderConfig(kind="relu", width=width),
            epochs=200.0,
            batch_size=4096,
            learning_rate=1e-4,
            warmup_epochs=5.0,
            precision="bfloat16",
            target_l0=target_l0,
            unit_scale=False,
            tied_start=False,
            project_gradient=False,
            stop=StopRule(mse=1e-3),
        )
