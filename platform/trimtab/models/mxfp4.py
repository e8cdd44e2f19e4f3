"""MXFP4: what gpt-oss is published in, and how to read it without changing a bit.

A weight is a sign, two bits of exponent and one of mantissa; 32 of them, neighbours along a row,
share a power of two. A checkpoint holds two uint8 tensors for a fused expert tensor: `_blocks`
`[experts, out, in / 32, 16]`, two weights in a byte, the lower half first, and `_scales`
`[experts, out, in / 32]`, the exponent plus 127. The model wants `[experts, in, out]`.

Every value is a bfloat16 exactly, so unpacking loses nothing. A table of the 256 bytes gives both
weights of a byte at once; one expert at a time, so that temporaries stay at one expert's size.

OCP Microscaling Formats (MX) 1.0, section 5.3.3.
"""

from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
GROUP: Final = 32
"""Weights that share a scale."""
BLOCKS: Final = "_blocks"
"""Suffix of the tensor of packed weights."""
SCALES: Final = "_scales"
"""Suffix of the tensor of exponents."""


def unpack(
    blocks: UInt8[Tensor, "experts out groups 16"],
    scales: UInt8[Tensor, "experts out groups"],
    dtype: torch.dtype = torch.bfloat16,
    into: Float[Tensor, "experts inner out"] | None = None,
) -> Float[Tensor, "experts inner out"]:
    """The weights as the model multiplies with them: `inner = 32 * groups`, transposed.

    Args:
        blocks: packed weights.
        scales: exponents plus 127.
        dtype: what to unpack to; bfloat16 and float32 are exact.
        into: memory to write to instead of new memory; its dtype then counts.
    """
    experts, out, groups = scales.shape
    if into is None:
        into = torch.empty(experts, groups * GROUP, out, dtype=dtype, device=blocks.device)
    pairs = _pairs(into.dtype, blocks.device)
    for expert in range(experts):
        weights = pairs[blocks[expert].int()].view(out, groups, GROUP)
        weights *= torch.exp2(scales[expert].float() - 127).to(into.dtype)[..., None]
        into[expert].copy_(weights.view(out, groups * GROUP).T)
    return into


def _pairs(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "256 2"]:
    values = torch.tensor([*VALUES, *(-value for value in VALUES)], dtype=dtype, device=device)
    byte = torch.arange(256, device=device)
    return torch.stack([values[byte & 15], values[byte >> 4]], dim=1)
