"""What happens to a tensor between a checkpoint and a model in 4 bits: transformers' operations.

transformers calls operations from a copied list, so they carry no state: what a packed tensor
needs travels on the parameter. What they raise, transformers prints, and ends loading with an
error of its own.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.quantizers_utils import get_module_from_name

from trimtab.core.errors import ModelError
from trimtab.models.mxfp4 import BLOCKS, SCALES
from trimtab.models.nf4 import Nf4, join, pack, pack_linear
from trimtab.models.packed import Mxfp4, packed_parameter

NF4_PARTS: Final = (
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".quant_state.bitsandbytes__nf4",
    ".quant_state.bitsandbytes__fp4",
)
"""What bitsandbytes writes beside a packed weight; not all of them at once."""

Tensors = dict[str, Any]
"""By name or pattern: a tensor, or a list of them."""


class PackNf4(ConversionOps):
    """Experts that a checkpoint holds apart, packed one at a time."""

    def convert(
        self,
        input_dict: Tensors,
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str = "",
        model: Any = None,  # noqa: ANN401
        **_: object,
    ) -> Tensors:
        """Called by transformers, with what it collected for one parameter."""
        shape = model.get_parameter(full_layer_name).shape
        sides = [input_dict.pop(pattern) for pattern in source_patterns if pattern in input_dict]
        rows = sum(side[0].shape[0] for side in sides)
        if {len(side) for side in sides} != {shape[0]} or rows != shape[1]:
            counts = [len(side) for side in sides]
            raise ModelError(f"{full_layer_name} needs {shape[0]} experts, but has {counts}.")
        return {target_patterns[0]: pack(_joined(sides), shape, sides[0][0].dtype)}


class QuantizeNf4(ConversionOps):
    """A dense tensor as it came, packed: a linear layer's, or experts that came fused."""

    def convert(self, input_dict: Tensors, model: Any = None, **_: object) -> Tensors:  # type: ignore[override] # noqa: ANN401
        """Called by transformers, with what it is about to put in place."""
        return {name: self._packed(model, name, value) for name, value in input_dict.items()}

    def _packed(self, model: nn.Module, name: str, value: Any) -> nn.Parameter:  # noqa: ANN401
        tensor = value[0] if isinstance(value, list) else value
        if hasattr(tensor, "packing"):
            return tensor
        module, parameter = get_module_from_name(model, name)
        expected = getattr(module, parameter).shape
        if tensor.shape != expected:
            raise ModelError(
                f"{name} must be {tuple(expected)}, but the checkpoint has {tuple(tensor.shape)}."
            )
        if isinstance(module, Linear4bit):
            return _initialised(module, pack_linear(tensor, module))
        return pack(tensor, tensor.shape, tensor.dtype)


class ReadNf4(ConversionOps):
    """Packed bytes and their scales, as a checkpoint holds them; a plain tensor passes."""

    def convert(  # type: ignore[override]
        self,
        input_dict: Tensors,
        target_patterns: list[str],
        full_layer_name: str = "",
        model: Any = None,  # noqa: ANN401
        **_: object,
    ) -> Tensors:
        """Called by transformers, with what it collected for one parameter."""
        key = target_patterns[0]
        parts = {name: _only(value) for name, value in input_dict.items()}
        module, parameter = get_module_from_name(model, full_layer_name)
        dtype = getattr(module, parameter).dtype
        packed = parts.pop(key)
        if not parts:
            return {key: packed.to(dtype) if packed.is_floating_point() else packed}
        if isinstance(module, Linear4bit):
            where: Any = packed.device
            read = Params4bit.from_prequantized(
                packed, parts, device=where, module=module, requires_grad=False
            )
            return {key: _initialised(module, read)}
        stats = {name.removeprefix(f"{key}."): value for name, value in parts.items()}
        state = QuantState.from_dict(stats, device=packed.device)
        state.dtype = dtype
        return {key: packed_parameter(packed, Nf4(state))}


class JoinNf4(ConversionOps):
    """Experts that a bitsandbytes checkpoint holds apart and packed; their bits stay."""

    def convert(
        self,
        input_dict: Tensors,
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str = "",
        model: Any = None,  # noqa: ANN401
        **_: object,
    ) -> Tensors:
        """Called by transformers, with what it collected for one parameter."""
        dense = model.get_parameter(full_layer_name)
        sides = [name for name in source_patterns if not name.endswith(NF4_PARTS)]
        if input_dict.keys() == set(sides):  # left as they were: `check_quantised` has the word
            plain = torch.stack(list(_joined([input_dict[side] for side in sides])))
            return {target_patterns[0]: plain.to(dense.dtype)}
        experts = [
            [_state_of(input_dict, side, number) for side in sides]
            for number in range(len(input_dict[sides[0]]))
        ]
        return {target_patterns[0]: join(experts, dense.shape, dense.dtype)}


class ReadMxfp4(ConversionOps):
    """Blocks and scales as they are."""

    def convert(  # type: ignore[override]
        self,
        input_dict: Tensors,
        target_patterns: list[str],
        full_layer_name: str = "",
        model: Any = None,  # noqa: ANN401
        **_: object,
    ) -> Tensors:
        """Called by transformers, with what it collected for one parameter."""
        key = target_patterns[0]
        dense = model.get_parameter(full_layer_name)
        packing = Mxfp4(_only(input_dict[key + SCALES]), dense.dtype)
        if packing.shape != dense.shape:
            raise ModelError(f"{key} must unpack to {tuple(dense.shape)}, not {packing.shape}.")
        return {key: packed_parameter(_only(input_dict[key + BLOCKS]), packing)}


def _initialised(module: Any, parameter: nn.Parameter) -> nn.Parameter:  # noqa: ANN401
    module._is_hf_initialized = True
    return parameter


def _state_of(collected: Tensors, side: str, number: int) -> tuple[Tensor, QuantState]:
    parts = {part: collected[side + part][number] for part in NF4_PARTS if side + part in collected}
    packed = collected[side][number]
    stats = {part.removeprefix("."): value for part, value in parts.items()}
    return packed, QuantState.from_dict(stats, device=packed.device)


def _joined(sides: list[list[Tensor]]) -> Iterator[Tensor]:
    for number in range(len(sides[0])):
        yield torch.cat([side[number] for side in sides]) if len(sides) > 1 else sides[0][number]


def _only(value: Any) -> Tensor:  # noqa: ANN401
    return value[0] if isinstance(value, list) else value


READS: Final = (ReadNf4, JoinNf4, ReadMxfp4)
"""Operations that cast by themselves."""
