"""MXFP4 written: weights into blocks and scales, the inverse of `mxfp4.unpack`.

What MXFP4 can represent comes back bit for bit. Anything else goes to the nearest representable
value (ties to the even code) under its group's scale, which is the smallest power of two that cuts
nothing off; the algorithm in the specification takes a smaller one at times and saturates.

Nothing that runs a model needs this. The twins of gpt-oss do, and tests of the road back.

Cost: about 40 bytes of temporaries a weight.

OCP Microscaling Formats (MX) 1.0, sections 5.3.3 and 6.3.
"""

from itertools import pairwise
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from trimtab.models.mxfp4 import GROUP, VALUES

_MIDDLES: Final = tuple((low + high) / 2 for low, high in pairwise(VALUES))
_BIAS: Final = 127
_SIGN: Final = 8


class Packed(NamedTuple):
    """A fused expert tensor as a checkpoint holds it."""

    blocks: UInt8[Tensor, "experts out groups 16"]
    """Two weights in a byte, the lower half first."""
    scales: UInt8[Tensor, "experts out groups"]
    """Exponents plus 127."""


def pack(weights: Float[Tensor, "experts inner out"]) -> Packed:
    """Packs weights as the model multiplies with them; 32 neighbours along `inner` share a scale.

    Raises:
        ValueError: `inner` is no multiple of 32, or a weight is not finite.
    """
    experts, inner, out = weights.shape
    if inner % GROUP or not weights.isfinite().all():
        raise ValueError(
            f"MXFP4 takes finite weights in groups of {GROUP} along the inner dimension, but got "
            f"({inner=}, finite={bool(weights.isfinite().all())}). Pad or mend them first."
        )
    groups = weights.float().transpose(1, 2).reshape(experts, out, inner // GROUP, GROUP)
    exponents = _exponents(groups.abs().amax(dim=-1))
    codes = _codes(torch.ldexp(groups, -exponents[..., None]))
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4
    return Packed(blocks, (exponents + _BIAS).to(torch.uint8))


def _exponents(largest: Float[Tensor, "*group"]) -> Tensor:
    """The smallest e with `largest <= 6 * 2**e`, exact: 6 is 0.75 * 2**3."""
    mantissa, exponent = torch.frexp(largest)
    return (exponent - 3 + (mantissa > VALUES[-1] / 8)).clamp(-_BIAS, _BIAS)


def _codes(scaled: Float[Tensor, "*weight"]) -> UInt8[Tensor, "*weight"]:
    middles = torch.tensor(_MIDDLES, device=scaled.device)
    sizes = scaled.abs().contiguous()
    below = torch.bucketize(sizes, middles)
    above = torch.bucketize(sizes, middles, right=True)
    nearest = torch.where(below % 2 == 0, below, above)  # they differ in the middle of two only
    return (nearest + _SIGN * scaled.signbit()).to(torch.uint8)
