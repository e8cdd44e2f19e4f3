"""Fused expert tensors that stay packed, and read as dense ones.

A mixture of experts holds nearly all its weights in 3-D parameters, which bitsandbytes' 4-bit
layers do not reach. Here such a parameter keeps its packed bytes, and a torch parametrization
turns them into the dense tensor when the model reads it: all of it, or (`Packing.unpack`) only
some experts. What was unpacked is kept while the experts' module runs, because its forward reads
the parameter many times, and dropped when that forward ends, on an exception too: never more than
one layer is dense.

NF4 is bitsandbytes' (blocks of 64, scales in 8 bits in blocks of 256), bit for bit what
`quantize_4bit` gives for the whole tensor, made one expert at a time so that temporaries stay at
16.8 million weights. An expert whose size 64 does not divide is padded with zeros: its last block
is its own. MXFP4 keeps the checkpoint's own bytes.

Dettmers et al. 2023, arXiv 2305.14314, sections 3 (NF4) and 3 (double quantisation).
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final

import torch
from bitsandbytes import functional as bnb
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Params4bit
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trimtab.core.errors import ModelError
from trimtab.models.mxfp4 import BLOCKS, GROUP, SCALES, unpack

BLOCK: Final = 64
"""Weights that share a scale."""
NESTED: Final = 256
"""Scales that share a scale of their own."""
CHUNK: Final = 2**24
"""Most weights quantised at once; a multiple of `BLOCK`."""


class Packing(nn.Module):
    """How one packed parameter reads; its scales are buffers, so they move with the model."""

    precision: ClassVar[str]
    """What `held_bytes` files it under."""

    def __init__(self, shape: Iterable[int], dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        """Of the dense tensor: experts first."""
        self.dtype = dtype
        """Of the dense tensor."""
        self._keeping = False
        self._dense: Tensor | None = None

    def unpack(self, packed: Tensor, experts: Int[Tensor, " some"] | None = None) -> Tensor:
        """The dense tensor, or its rows of the experts asked for, in their order."""
        raise NotImplementedError

    def tensors(self, key: str, packed: Tensor) -> dict[str, Tensor]:
        """What a checkpoint holds for the parameter of this name."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, packed: Tensor) -> Tensor:
        """What reading the parameter gives."""
        if self._dense is not None:
            return self._dense
        dense = self.unpack(packed)
        if self._keeping:
            self._dense = dense
        return dense

    def keep(self) -> None:
        """From now on, what is unpacked once is kept."""
        self._keeping = True

    def drop(self) -> None:
        """Forgets what was kept, and keeps nothing more."""
        self._keeping, self._dense = False, None


class Nf4(Packing):
    """bitsandbytes' 4-bit, one fused tensor."""

    precision = "nf4"

    def __init__(self, state: QuantState) -> None:
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

    def state(self) -> QuantState:
        """As bitsandbytes writes it down."""
        nested = QuantState(
            absmax=self.nested_absmax, code=self.nested_code, blocksize=NESTED, dtype=torch.float32
        ) if self.nested else None  # fmt: skip
        return QuantState(
            absmax=self.absmax,
            shape=self.shape,
            code=self.code,
            blocksize=BLOCK,
            quant_type=self.quant_type,
            dtype=self.dtype,
            offset=self.offset if self.nested else None,
            state2=nested,
        )

    def tensors(self, key: str, packed: Tensor) -> dict[str, Tensor]:
        """bitsandbytes' own names."""
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
        bias = None if self.bias is None else self.bias.to(dtype)
        return nn.functional.linear(x.to(dtype), read_linear(self.weight, dtype), bias).to(x.dtype)


class Mxfp4(Packing):
    """A checkpoint's own blocks and scales."""

    precision = "mxfp4"

    def __init__(self, scales: UInt8[Tensor, "experts out groups"], dtype: torch.dtype) -> None:
        """Takes over the exponents; what is packed is the blocks."""
        experts, out, groups = scales.shape
        super().__init__((experts, groups * GROUP, out), dtype)
        self.register_buffer("scales", scales, persistent=False)

    def tensors(self, key: str, packed: Tensor) -> dict[str, Tensor]:
        """The published names."""
        return {f"{key}{BLOCKS}": packed, f"{key}{SCALES}": self.scales}

    def unpack(self, packed: Tensor, experts: Int[Tensor, " some"] | None = None) -> Tensor:
        """The dense tensor, or its rows of the experts asked for, in their order."""
        if experts is None:
            return unpack(packed, self.scales, self.dtype)
        return unpack(packed[experts], self.scales[experts], self.dtype)


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
            made = {"device": expert.device}
            codes = torch.empty(shape[0], padded // 2, dtype=torch.uint8, **made)
            scales = torch.empty(shape[0], padded // BLOCK, dtype=torch.float32, **made)
        _quantise(expert.reshape(-1), codes[number], scales[number])
    assert codes is not None
    assert scales is not None
    return packed_parameter(codes.view(-1, 1), Nf4(_state(scales.view(-1), shape, dtype)))


def pack_linear(weight: Float[Tensor, "out inner"], module: Linear4bit) -> Params4bit:
    """Quantises a linear layer's weight: bitsandbytes' bits with bounded temporaries."""
    padded = _whole_blocks(weight.numel())
    codes = torch.empty(padded // 2, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(padded // BLOCK, dtype=torch.float32, device=weight.device)
    _quantise(weight.reshape(-1), codes, scales)
    state = _state(scales, weight.shape, weight.dtype)
    module.quant_state = state
    return Params4bit(
        codes[: math.ceil(weight.numel() / 2)].unsqueeze(1),
        quant_state=state,
        blocksize=BLOCK,
        compress_statistics=True,
        quant_type=state.quant_type,
        module=module,
        bnb_quantized=True,
    )


def read_linear(weight: Params4bit, dtype: torch.dtype) -> Float[Tensor, "out inner"]:
    """A linear layer's dense weight."""
    state = weight.quant_state
    scales = state.absmax
    if state.nested:
        scales = _unnested(scales, state.state2.absmax, state.state2.code, state.offset)
    codes = weight.data.view(-1)
    codes = nn.functional.pad(codes, (0, len(scales) * BLOCK // 2 - len(codes)))
    flat = _blocks(codes.unsqueeze(1), scales, state.quant_type, dtype)
    return flat.view(-1)[: state.shape.numel()].view(state.shape)


def packed_parameter(packed: Tensor, packing: Packing) -> nn.Parameter:
    """Packed bytes as a parameter that carries how to read them, until it is attached.

    Raises:
        ModelError: the bytes are not as many as the shape needs.
    """
    if isinstance(packing, Nf4) and packed.numel() * 2 != packing.shape[0] * packing.padded:
        raise ModelError(
            f"A packed tensor of shape {tuple(packing.shape)} must have "
            f"{packing.shape[0] * packing.padded // 2} bytes, but it has {packed.numel()}. "
            "Quantise the model again with `trimtab quantize`."
        )
    parameter: Any = nn.Parameter(packed, requires_grad=False)
    parameter.packing = packing
    return parameter


def attach(module: nn.Module, name: str) -> None:
    """Makes a parameter that carries its packing read as the dense tensor."""
    parameter: Any = getattr(module, name)
    packing = parameter.packing
    del parameter.packing
    if not parametrize.is_parametrized(module):
        module.register_forward_pre_hook(_keep)
        module.register_forward_hook(_drop, always_call=True)
    parametrize.register_parametrization(module, name, packing, unsafe=True)


def packings(module: nn.Module) -> Iterator[tuple[str, Packing, Tensor]]:
    """The packed parameters of a module itself: name, how it reads, bytes."""
    if not parametrize.is_parametrized(module):
        return
    held: Any = module.parametrizations
    for name, listed in held.items():
        if isinstance(listed[0], Packing):
            yield name, listed[0], listed.original


def _keep(module: nn.Module, _args: Any) -> None:  # noqa: ANN401
    for _, packing, _ in packings(module):
        packing.keep()


def _drop(module: nn.Module, _args: Any, _output: Any) -> None:  # noqa: ANN401
    for _, packing, _ in packings(module):
        packing.drop()


def _blocks(codes: Tensor, scales: Tensor, quant_type: str, dtype: torch.dtype) -> Tensor:
    """Dense blocks, one a row: rows of any other length bitsandbytes may read wrong on a CPU."""
    return torch.ops.bitsandbytes.dequantize_4bit.default(
        codes, scales, BLOCK, quant_type, (scales.numel(), BLOCK), dtype
    )


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
