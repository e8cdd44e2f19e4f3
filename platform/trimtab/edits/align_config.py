"""How an autoencoder is aligned: the loss's weights, margins and limits, and the optimiser.

The defaults are the study's (METHODS 1.7), so every field is a coordinate of a sweep.
"""

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from trimtab.core.config import Config
from trimtab.locate.config import LatentConfig


class Weights(Config):
    """What each term of the loss counts. A term of weight 0 is still reported."""

    reconstruction: NonNegativeFloat = 1.0
    """Mean squared error."""
    sparsity: NonNegativeFloat = 1e-4
    """Mean activation of all latents."""
    align: NonNegativeFloat = 0.5
    """A dimension's latents say how much of it there is."""
    polarity: NonNegativeFloat = 0.3
    """A virtue's latents are above the vice's on virtuous rows, and the other way round."""
    prototype: NonNegativeFloat = 0.2
    """A more typical row activates a dimension's latents more."""
    mono: NonNegativeFloat = 0.1
    """A strict latent is silent on rows of another dimension."""


class Limits(Config):
    """Margins of the terms, and when a term has too few rows to say anything."""

    polarity_margin: PositiveFloat = 0.5
    """By how much one pole's mean activation must exceed the other's."""
    polarity_above: float = Field(default=0.3, ge=0, lt=1)
    """Magnitude above which a row stands for a pole."""
    polarity_min_rows: PositiveInt = 4
    """Fewest such rows in a batch, of each of the two poles."""
    prototype_margin: PositiveFloat = 0.1
    """What (difference in typicality) x (difference in activation) must exceed."""
    prototype_pairs: PositiveInt = 100
    """Pairs of rows that are compared for each dimension and batch."""
    prototype_min_rows: PositiveInt = 16
    """Fewest rows of a dimension in a batch."""


class Sampling(Config):
    """How likely a training row is drawn, relative to a mildly typical one."""

    neutral: PositiveFloat = 0.3
    """A row without any magnitude."""
    clear: PositiveFloat = 1.5
    """Typicality above .25, up to .5."""
    typical: PositiveFloat = 2.0
    """Typicality above .5."""
    minority: float = Field(default=3.0, ge=1)
    """Most that the rarer polarity is drawn more often; it is drawn in proportion up to this."""


class AlignConfig(Config):
    """Everything that decides an alignment but the coder, the rows and the seed."""

    latents: LatentConfig = Field(default_factory=LatentConfig)
    """Which latents are trained, and how the result is scored."""
    weights: Weights = Field(default_factory=Weights)
    """Of the terms of the loss."""
    limits: Limits = Field(default_factory=Limits)
    """Of the terms of the loss."""
    sampling: Sampling = Field(default_factory=Sampling)
    """Of the training rows."""
    unit_scale: bool = False
    """Count lengths in the root mean square of a training row's entries, less the centre. The
    margins are lengths: .5 is little in a layer whose rows are 100 long, and out of reach where
    they are .5 long. Off as published; on, one setting fits every layer and model."""
    learning_rate: PositiveFloat = 1e-4
    """The highest that AdamW reaches, after the warm-up."""
    weight_decay: NonNegativeFloat = 0.01
    """Of the trained rows alone."""
    warm_up: float = Field(default=0.1, gt=0, lt=1)
    """Share of the steps until the learning rate is at its highest."""
    batch: PositiveInt = 512
    """Rows in a step."""
    epochs: PositiveInt = 50
    """Most epochs; one draws as many rows as there are."""
    patience: PositiveInt = 10
    """Epochs without a better loss on held-out rows until the training stops."""
    as_released: bool = False
    """Let neutral rows count as `care` in the mono term, and of tied dimensions the first. By
    default a neutral row has no dimension, and a row belongs to all that it names equally."""
