"""Which latents count as moral: the thresholds and the sizes of the sets, all of them sweepable."""

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from trimtab.core.config import Config


class LatentConfig(Config):
    """How moral latents are found. The defaults are the study's (`li2026`)."""

    weak: float = Field(default=0.05, ge=0, lt=1)
    """|r|: a latent whose largest correlation is below this is weak."""
    strong: float = Field(default=0.1, gt=0, lt=1)
    """|r|: a correlation above this counts."""
    strict_ratio: PositiveFloat = 1.5
    """A strict latent's largest |r| is above this many times its second."""
    per_dimension: PositiveInt = 50
    """Most latents of a dimension's set."""
    per_pole: PositiveInt = 20
    """Most latents of a pole, where two poles are held against each other."""
    num_prototypes: PositiveInt = 20
    """Most latents whose agreement with typicality is averaged."""
    min_rows: int = Field(default=50, ge=3)
    """Fewest rows where a dimension is above 0, for prototypicality to be defined. The demo's
    corpus is small and takes 15."""
    permutations: NonNegativeInt = 100
    """Shuffles of the labels that say what chance would give; 0 leaves the test out. Memory is
    240 bytes x width x this: 1.6 GB at 65,536 x 100."""
    false_discovery: float = Field(default=0.05, gt=0, lt=1)
    """Largest expected share of chance findings among the latents called significant."""
    batch: PositiveInt = 512
    """Rows encoded at a time; 65,536 latents of 512 rows in float64 are 268 MB."""

    @model_validator(mode="after")
    def _in_order(self) -> "LatentConfig":
        if self.weak > self.strong:
            raise ValueError(
                f"`weak <= strong` must hold, but got (weak={self.weak}, strong={self.strong}): "
                "a latent cannot be weak and moral at once"
            )
        if self.strict_ratio < 1:
            raise ValueError(
                f"`strict_ratio >= 1` must hold, but got {self.strict_ratio}: "
                "no latent's largest correlation is below its second"
            )
        return self
