"""What an arm adds to the residual stream, as a function of the residual stream alone.

Pure: no model, no hooks. Two callers share it, so that a decode (`edits.steering`, where each row
has its arm) and a score (`evaluation.scores`, where a whole batch is resumed once an arm) change
the same residual by the same bits.

A reconstruction holds all latents of the positions that it works on at once, so it goes through
them in pieces of at most 2^28 latents (537 MB in bfloat16). `topk` reads the encoder and k decoder
rows a position; the other kinds read both matrices.
"""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.edits.arms import Arm
from trimtab.sae.coder import Sae

LATENTS_AT_ONCE: Final = 2**28

Reconstruct = Callable[[str], Float[Tensor, "batch tokens d_model"]]
"""Name of a coder -> its reconstruction of the residual in question."""


def reconstruction(
    sae: Sae, x: Float[Tensor, "batch tokens d_model"]
) -> Float[Tensor, "batch tokens d_model"]:
    """SAE(x - c) + c at every position, in the coder's dtype, on x's device."""
    positions = x.reshape(-1, sae.d_model).to(sae.W_enc)
    at_once = max(1, LATENTS_AT_ONCE // sae.width)
    if len(positions) <= at_once:
        return sae(positions).view(x.shape).to(x.device)
    return torch.cat([sae(piece) for piece in positions.split(at_once)]).view(x.shape).to(x.device)


def change_of(
    arm: Arm,
    x: Float[Tensor, "batch tokens d_model"],
    reconstruct: Reconstruct,
    direction: Float[Tensor, " d_model"] | None,
) -> Float[Tensor, "*batch_tokens d_model"]:
    """What an arm of alpha 1 adds to x.

    Args:
        arm: gives the formula; its alpha is left to the caller.
        x: the residual.
        reconstruct: gives each of the arm's coders' reconstruction of it.
        direction: the arm's, where it has one.
    """
    match arm.kind:
        case "blend":
            return reconstruct(arm.coder) - x
        case "delta":
            return reconstruct(arm.coder) - reconstruct(arm.against)
        case "direction":
            assert direction is not None, "a direction arm names one"
            return direction.to(x.device)
        case "noise":
            assert direction is not None, "a noise arm names one"
            length = (reconstruct(arm.coder) - x).norm(dim=-1, keepdim=True)
            return length * (direction / direction.norm()).to(x.device)
        case "none":
            return torch.zeros_like(x)
