"""4-bit that is 4-bit: the quantizers that transformers loads our models with.

Two, registered with transformers: NF4 for linear layers (bitsandbytes' own layer) and for fused
experts alike, and MXFP4 kept as gpt-oss publishes it. Both work tensor by tensor while loading;
experts that a checkpoint holds apart are packed one at a time and never merged in bfloat16, so
that loading needs what is kept plus about one expert. Embeddings, norms, routers and heads stay
in the compute dtype.

NF4 checkpoints are written in bitsandbytes' names and read back to the same bits; a bitsandbytes
checkpoint reads the same way.

transformers calls operations from a copied list, so they carry no state: what a packed tensor
needs travels on the parameter.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import (
    Concatenate,
    ConversionOps,
    MergeModulelist,
    WeightConverter,
    WeightTransform,
)
from transformers.quantizers import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name, should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from trimtab.core.errors import ModelError
from trimtab.models.mxfp4 import BLOCKS, SCALES
from trimtab.models.packed import (
    Mxfp4,
    Nf4,
    Nf4Linear,
    attach,
    pack,
    pack_linear,
    packed_parameter,
    packings,
)
from trimtab.models.routed import ROUTED

NF4: Final = "trimtab_nf4"
"""Our NF4 among transformers' quantisation methods."""
MXFP4: Final = "trimtab_mxfp4"
"""Our MXFP4 among them."""
_NF4_PARTS: Final = (
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".quant_state.bitsandbytes__nf4",
    ".quant_state.bitsandbytes__fp4",
)

Tensors = dict[str, Any]


@register_quantization_config(NF4)
class Nf4Config(QuantizationConfigMixin):
    """NF4 in blocks of 64 with double quantisation, linear layers and fused experts."""

    def __init__(self, skip_modules: Sequence[str] | None = None, **_: object) -> None:
        """Notes the modules that are left alone; None is heads and what is tied to them."""
        self.quant_method = NF4
        self.skip_modules = None if skip_modules is None else list(skip_modules)


@register_quantization_config(MXFP4)
class Mxfp4Config(QuantizationConfigMixin):
    """MXFP4 blocks and scales, kept as they are in the checkpoint."""

    def __init__(self, **_: object) -> None:
        self.quant_method = MXFP4

    def to_dict(self) -> dict[str, str]:
        """As published, so that what we save anybody can load."""
        return {"quant_method": "mxfp4"}


class _PackedQuantizer(HfQuantizer):
    """What both have in common: fused experts are packed and read through a parametrization."""

    experts: frozenset[str] = frozenset()
    """Names of the fused expert tensors."""
    compute_dtype: torch.dtype = torch.bfloat16
    reads: type[ConversionOps] = ConversionOps

    @property
    def is_trainable(self) -> bool:
        return False

    def is_serializable(self) -> bool:
        return True

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        self.compute_dtype = dtype
        return dtype

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> Any:  # noqa: ANN401
        reading = any(isinstance(op, self.reads) for op in getattr(converter, "operations", ()))
        return None if reading else super().get_new_dtype(converter, param, dtype)

    def param_needs_quantization(self, model: Any, param_name: str, **_: object) -> bool:  # noqa: ANN401
        return param_name in self.experts

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: object) -> None:  # type: ignore[override]
        self.experts = frozenset(fused_experts(model))

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: object) -> None:  # type: ignore[override]
        for name in self.experts:
            module, parameter = get_module_from_name(model, name)
            if hasattr(module._parameters[parameter], "packing"):
                attach(module, parameter)
                if hasattr(module, "is_transposed"):  # it takes an experts implementation
                    module.config._experts_implementation = ROUTED

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[Tensors, dict[str, str]]:
        state: Tensors = dict(model.state_dict())
        for prefix, module in model.named_modules():
            for name, packing, packed in packings(module):
                del state[f"{prefix}.parametrizations.{name}.original"]
                state |= packing.tensors(f"{prefix}.{name}", packed)
        return state, {}

    def _expert_keys(self) -> list[str]:
        return sorted({".".join(name.split(".")[-2:]) for name in self.experts})


@register_quantizer(NF4)
class Nf4Quantizer(_PackedQuantizer):
    """NF4, while loading or from a checkpoint that holds it."""

    @property
    def quantized_element_size(self) -> float:
        return 0.516

    def param_needs_quantization(self, model: Any, param_name: str, **_: object) -> bool:  # noqa: ANN401
        module, name = get_module_from_name(model, param_name)
        linear = isinstance(module, Linear4bit) and name == "weight"
        return linear or param_name in self.experts

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: object) -> None:  # type: ignore[override]
        super()._process_model_before_weight_loading(model)
        kept = self.get_modules_to_not_convert(
            model, self.quantization_config.skip_modules, model._keep_in_fp32_modules
        )
        self.experts = frozenset(
            name for name in self.experts if should_convert_module(name.rpartition(".")[0], kept)
        )
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and should_convert_module(name, kept):
                model.set_submodule(name, _linear(module, self.compute_dtype))

    def get_quantize_ops(self) -> ConversionOps:
        return QuantizeNf4()

    def update_weight_conversions(self, weight_conversions: Any, model: Any) -> list[Any]:  # noqa: ANN401
        if self.pre_quantized:
            return super().update_weight_conversions(weight_conversions, model)
        return [self._packing(conversion) for conversion in weight_conversions]

    def _packing(self, conversion: WeightTransform) -> WeightTransform:
        targets = conversion._original_target_patterns
        ours = any(targets[0].endswith(key) for key in self._expert_keys())
        if not (ours and isinstance(conversion, WeightConverter) and _merges(conversion)):
            return conversion
        sources = list(conversion._original_source_patterns)
        return conversion.copy(sources, list(targets), operations=[PackNf4()])

    def get_weight_conversions(self) -> list[WeightConverter]:
        if not self.pre_quantized:
            return []
        return [
            WeightConverter([key, *(key + part for part in _NF4_PARTS)], key, [ReadNf4()])
            for key in ("weight", *self._expert_keys())
        ]


@register_quantizer(MXFP4)
class Mxfp4Quantizer(_PackedQuantizer):
    """MXFP4 from a checkpoint that holds it."""

    @property
    def quantized_element_size(self) -> float:
        return 0.53125

    def get_weight_conversions(self) -> list[WeightConverter]:
        return [
            WeightConverter([key + BLOCKS, key + SCALES], key, [ReadMxfp4()])
            for key in self._expert_keys()
        ]


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

    def convert(
        self,
        input_dict: Tensors,
        target_patterns: list[str],
        full_layer_name: str = "",
        model: Any = None,  # noqa: ANN401
        **_: object,
    ) -> Tensors:
        key = target_patterns[0]
        parts = {name: _only(value) for name, value in input_dict.items()}
        module, parameter = get_module_from_name(model, full_layer_name)
        dtype = getattr(module, parameter).dtype
        packed = parts.pop(key)
        if not parts:
            return {key: packed.to(dtype) if packed.is_floating_point() else packed}
        if isinstance(module, Linear4bit):
            read = Params4bit.from_prequantized(
                packed, parts, device=packed.device, module=module, requires_grad=False
            )
            return {key: _initialised(module, read)}
        stats = {name.removeprefix(f"{key}."): value for name, value in parts.items()}
        state = QuantState.from_dict(stats, device=packed.device)
        state.dtype = dtype
        return {key: packed_parameter(packed, Nf4(state))}


class ReadMxfp4(ConversionOps):
    """Blocks and scales as they are."""

    def convert(
        self,
        input_dict: Tensors,
        target_patterns: list[str],
        full_layer_name: str = "",
        model: Any = None,  # noqa: ANN401
        **_: object,
    ) -> Tensors:
        key = target_patterns[0]
        dense = model.get_parameter(full_layer_name)
        packing = Mxfp4(_only(input_dict[key + SCALES]), dense.dtype)
        if packing.shape != dense.shape:
            raise ModelError(f"{key} must unpack to {tuple(dense.shape)}, not {packing.shape}.")
        return {key: packed_parameter(_only(input_dict[key + BLOCKS]), packing)}


def fused_experts(model: nn.Module) -> Iterator[str]:
    """Names of the 3-D parameters of experts modules."""
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Experts"):
            for parameter_name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3:
                    yield f"{name}.{parameter_name}"


def _linear(module: nn.Linear, dtype: torch.dtype) -> Nf4Linear:
    with torch.device("meta"):
        made = Nf4Linear(
            module.in_features, module.out_features, bias=False, compute_dtype=dtype, quant_type="nf4"
        )  # fmt: skip
    made.bias = module.bias
    return made.requires_grad_(requires_grad=False)


def _initialised(module: nn.Module, parameter: nn.Parameter) -> nn.Parameter:
    module._is_hf_initialized = True
    return parameter


def _merges(converter: WeightConverter) -> bool:
    """Whether it stacks experts, and joins gate and up along an expert's rows."""
    kinds = [
        (type(operation), getattr(operation, "dim", None)) for operation in converter.operations
    ]
    stack, join = (MergeModulelist, 0), (Concatenate, 1)
    return kinds in ([stack], [stack, join])


def _joined(sides: list[list[Tensor]]) -> Iterator[Tensor]:
    for number in range(len(sides[0])):
        yield torch.cat([side[number] for side in sides]) if len(sides) > 1 else sides[0][number]


def _only(value: Any) -> Tensor:  # noqa: ANN401
    return value[0] if isinstance(value, list) else value
