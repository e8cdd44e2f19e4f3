"""The kinds of arms that a steering trial may have; each is explained in `stream.steer_arms`."""

from typing import Final, Literal, get_args

ArmKind = Literal[
    "aligned",
    "unaligned",
    "delta",
    "latent_direction",
    "difference_of_means",
    "random_latents",
    "random_direction",
]
ARM_KINDS: Final[tuple[ArmKind, ...]] = get_args(ArmKind)
"""In the order in which figures and tables have them."""
CONTROLS: Final[tuple[ArmKind, ...]] = ("unaligned", "random_latents", "random_direction")
"""What has all of the aligned blend but its aim. The other arms are edits to compare it with."""
