"""NF4: bitsandbytes' 4 bits, for fused experts and for linear layers.

A weight is one of 16 quantiles of a normal distribution times the largest weight of its block of
64; those scales are in 8 bits, in blocks of 256 with a scale of their own ("double quantisation"):
0.516 bytes a weight. Bit for bit what `quantize_4bit` gives for a whole tensor, made one expert, and
at most 16.8 million weights, at a time: bitsandbytes' CPU quantiser needs temporaries of many times
its input. An expert whose size 64 does not divide is padded with zeros, so that its last block is
its own.

Dettmers et al. 2023, arXiv 2305.14314, section 3.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from bitsandbytes import functional as bnb
from bitsandbytes.functional import QuantState
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from jaxtyping import Float, Int
from torch import Tensor, nn

from trimtab.core.errors import ModelError
from trimtab.models.packed import Packing, packed_parameter

BLOCK: Final = 64
"""Weights that share a scale."""
NESTED: Final = 256
"""Scales that share a scale of their own."""
CHUNK: Final = 2**24
"""Most weights quantised at once; a multiple of `BLOCK`."""
MOST: Final = 2**24
"""Most blocks unpacked at once: bitsandbytes counts a GPU's weights in 32 bits with a sign."""


class Nf4(Packing):
    """bitsandbytes' 4-bit, one fused tensor."""

    precision = "nf4"

    absmax: Tensor
    code: Tensor
    offset: Tensor
    nested_absmax: Tensor
    nested_code: Tensor

    def __init__(self, state: Any) -> None:  # noqa: ANN401 (bitsandbytes' QuantState)
        """Takes over a bitsandbytes state whose shape is that of the dense tensor."""
        super().__init__(state.shape, state.dtype)
        self.quant_type = state.quant_type
        self.register_buffer("absmax", state.absmax, persistent=False)
        self.register_buffer("code", state.code, persistent=False)
        if state.nested:
            self.register_buffer("offset", state.offset, persistent=False)
            self.register_buffer("nested_absmax", state.state2.absmax, persistent=False)
            self.register_buffer("nested_code", state.state2.code, persistent=False)

    @property
    def nested(self) -> bool:
        """Whether the scales are quantised too."""
        return "offset" in self._buffers

    @property
    def padded(self) -> int:
        """Weights of one expert, up to whole blocks."""
        return _whole_blocks(self.shape[1:].numel())

    def check(self, packed: Tensor) -> None:
        """Raises a ModelError if the bytes are not as many as the shape needs."""
        needed = self.shape[0] * self.padded // 2
        if packed.numel() != needed:
            raise ModelError(
                f"A packed tensor of shape {tuple(self.shape)} must have {needed} bytes, but it has "
                f"{packed.numel()}. Quantise the model again with `trimtab quantize`."
            )

    def state(self) -> QuantState:
        """As bitsandbytes writes it down."""
        state = QuantState(self.absmax, self.shape, self.code, BLOCK, self.quant_type, self.dtype)
        if self.nested:
            state.offset, state.nested = self.offset, True
            state.state2 = QuantState(
                self.nested_absmax, code=self.nested_code, blocksize=NESTED, dtype=torch.float32
            )
        return state

    def tensors(self, key: str, packed: Tensor) -> dict[str, Tensor]:
        """Named as bitsandbytes names them."""
        state = self.state().as_dict(packed=True)
        return {key: packed, **{f"{key}.{part}": value for part, value in state.items()}}

    def unpack(self, packed: Tensor, experts: Int[Tensor, " some"] | None = None) -> Tensor:
        """The dense tensor, or its rows of the experts asked for, in their order."""
        count, size = self.shape[0], self.shape[1:].numel()
        codes, scales = packed.view(count, -1), self._scales(experts)
        if experts is not None:
            codes, count = codes[experts], len(experts)
        flat = _blocks(codes.reshape(-1, 1), scales.reshape(-1), self.quant_type, self.dtype)
        return flat.view(count, self.padded)[:, :size].reshape(count, *self.shape[1:])

    def _scales(self, experts: Tensor | None) -> Float[Tensor, "some blocks"]:
        blocks = self.padded // BLOCK
        if not self.nested:
            scales = self.absmax.view(-1, blocks)
            return scales if experts is None else scales[experts]
        if experts is None or blocks % NESTED:
            scales = self._unnested(self.absmax, self.nested_absmax).view(-1, blocks)
            return scales if experts is None else scales[experts]
        absmax = self.absmax.view(-1, blocks)[experts].reshape(-1)
        nested = self.nested_absmax.view(-1, blocks // NESTED)[experts].reshape(-1)
        return self._unnested(absmax, nested).view(-1, blocks)

    def _unnested(self, absmax: Tensor, nested: Tensor) -> Tensor:
        return _unnested(absmax, nested, self.nested_code, self.offset)


class Nf4Linear(Linear4bit):
    """bitsandbytes' layer, with a CPU path that gives what its weights say.

    Its own (0.50.2, AVX-512) takes the wrong scales where 64 does not divide the inputs, and with
    AVX512-BF16 rounds every scale to bfloat16, in place, so that a later save writes them.
    """

    def forward(self, x: Float[Tensor, "*batch inner"]) -> Float[Tensor, "*batch out"]:
        """The layer's output, computed in its compute dtype."""
        if x.device.type != "cpu":
            return super().forward(x)
        dtype = self.compute_dtype or x.dtype
        weight: Any = self.weight
        bias = None if self.bias is None else self.bias.to(dtype)
        return nn.functional.linear(x.to(dtype), read_linear(weight, dtype), bias).to(x.dtype)


def pack(experts: Iterable[Tensor], shape: torch.Size, dtype: torch.dtype) -> nn.Parameter:
    """Quantises a fused tensor, expert by expert, to NF4 on the device that its experts are on.

    Args:
        experts: as many as `shape` says, each of the shape of one.
        shape: of the fused tensor.
        dtype: what it will be unpacked to.
    """
    padded = _whole_blocks(shape[1:].numel())
    codes = scales = None
    for number, expert in enumerate(experts):
        if codes is None or scales is None:
            codes = expert.new_empty(shape[0], padded // 2, dtype=torch.uint8)
            scales = expert.new_empty(shape[0], padded // BLOCK, dtype=torch.float32)
        _quantise(expert.reshape(-1), codes[number], scales[number])
    assert codes is not None
    assert scales is not None
    return packed_parameter(codes.view(-1, 1), Nf4(_state(scales.view(-1), shape, dtype)))


def pack_linear(weight: Float[Tensor, "out inner"], module: Any) -> Params4bit:  # noqa: ANN401
    """Quantises the weight of a `Nf4Linear`: bitsandbytes' bits with bounded temporaries."""
    padded = _whole_blocks(weight.numel())
    codes = weight.new_empty(padded // 2, dtype=torch.uint8)
    scales = weight.new_empty(padded // BLOCK, dtype=torch.float32)
    _quantise(weight.reshape(-1), codes, scales)
    module.quant_state = _state(scales, weight.shape, weight.dtype)
    data = codes[: math.ceil(weight.numel() / 2)].unsqueeze(1)
    options: dict[str, Any] = {
        "quant_state": module.quant_state,
        "blocksize": BLOCK,
        "compress_statistics": True,
        "quant_type": "nf4",
        "module": module,
        "bnb_quantized": True,
    }
    return Params4bit(data, **options)


def join(
    experts: Sequence[Sequence[tuple[Tensor, Any]]], shape: torch.Size, dtype: torch.dtype
) -> nn.Parameter:
    """Experts that were packed apart as one tensor, bit for bit; their scales stay in float32.

    Args:
        experts: for each, its parts (gate and up, or one) as bytes and bitsandbytes' state.
        shape: of the fused tensor.
        dtype: what it will be unpacked to.

    Raises:
        ModelError: a part does not end with a whole block, or is not of the shape it should be.
    """
    parts = [part for expert in experts for part in expert]
    sizes = {state.shape.numel() for _, state in parts}
    if any(size % BLOCK for size in sizes) or len(parts) * max(sizes) != shape.numel():
        raise ModelError(f"Experts packed apart must be whole blocks of {BLOCK} and make {shape}.")
    first = parts[0][1]
    scales = torch.cat([_scales_of(state) for _, state in parts])
    codes = torch.cat([packed.view(-1) for packed, _ in parts])
    whole = QuantState(scales, shape, first.code, BLOCK, first.quant_type, dtype)
    return packed_parameter(codes.unsqueeze(1), Nf4(whole))


def read_linear(weight: Params4bit, dtype: torch.dtype) -> Float[Tensor, "out inner"]:
    """A linear layer's dense weight."""
    state: Any = weight.quant_state
    scales = _scales_of(state)
    codes = weight.data.view(-1)
    codes = nn.functional.pad(codes, (0, len(scales) * BLOCK // 2 - len(codes)))
    flat = _blocks(codes.unsqueeze(1), scales, state.quant_type, dtype)
    return flat.view(-1)[: state.shape.numel()].view(state.shape)


def _blocks(codes: Tensor, scales: Tensor, quant_type: str, dtype: torch.dtype) -> Tensor:
    """Dense blocks, one a row: rows of any other length bitsandbytes may read wrong on a CPU."""
    if len(scales) <= MOST:
        return torch.ops.bitsandbytes.dequantize_4bit.default(
            codes, scales, BLOCK, quant_type, (len(scales), BLOCK), dtype
        )
    dense = scales.new_empty(len(scales), BLOCK, dtype=dtype)
    for start in range(0, len(scales), MOST):
        stop = start + MOST
        some = codes[start * BLOCK // 2 : stop * BLOCK // 2]
        dense[start:stop] = _blocks(some, scales[start:stop], quant_type, dtype)
    return dense


def _scales_of(state: Any) -> Tensor:  # noqa: ANN401
    if not state.nested:
        return state.absmax
    return _unnested(state.absmax, state.state2.absmax, state.state2.code, state.offset)


def _unnested(absmax: Tensor, nested: Tensor, code: Tensor, offset: Tensor) -> Tensor:
    scales = torch.ops.bitsandbytes.dequantize_blockwise.default(
        absmax, nested, code, NESTED, torch.float32
    )
    return scales.add_(offset)


def _quantise(flat: Tensor, codes: Tensor, scales: Tensor) -> None:
    for start in range(0, len(flat), CHUNK):
        piece = flat[start : start + CHUNK]
        if len(piece) % BLOCK:
            piece = nn.functional.pad(piece, (0, -len(piece) % BLOCK))
        some, largest = torch.ops.bitsandbytes.quantize_4bit.default(
            piece.contiguous(), BLOCK, "nf4", torch.uint8
        )
        codes[start // 2 : start // 2 + len(some)] = some.view(-1)
        scales[start // BLOCK : start // BLOCK + len(largest)] = largest


def _state(scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> QuantState:
    offset = scales.mean()
    absmax, nested = bnb.quantize_blockwise(scales - offset, blocksize=NESTED)
    return QuantState(
        absmax=absmax,
        shape=shape,
        code=bnb.get_4bit_type("nf4", device=scales.device),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=offset,
        state2=nested,
    )


def _whole_blocks(size: int) -> int:
    return math.ceil(size / BLOCK) * BLOCK
