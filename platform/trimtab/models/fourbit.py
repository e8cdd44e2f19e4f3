"""4-bit that is 4-bit: the quantizers that transformers loads our models with.

Two, registered with transformers: NF4 for linear layers (bitsandbytes' own layer) and for fused
experts alike, and MXFP4 kept as gpt-oss publishes it. Both work tensor by tensor while loading;
experts that a checkpoint holds apart are packed one at a time and never merged in bfloat16, so
that loading needs what is kept plus about one expert. Embeddings, norms, routers and heads stay
in the compute dtype.

NF4 checkpoints are written in bitsandbytes' names and read back to the same bits; a bitsandbytes
checkpoint reads the same way.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import (
    Concatenate,
    ConversionOps,
    MergeModulelist,
    WeightConverter,
    WeightTransform,
)
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name, should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from trimtab.core.errors import ModelError
from trimtab.models.fourbit_ops import (
    NF4_PARTS,
    READS,
    JoinNf4,
    PackNf4,
    QuantizeNf4,
    ReadMxfp4,
    ReadNf4,
    Tensors,
)
from trimtab.models.mxfp4 import BLOCKS, SCALES
from trimtab.models.nf4 import Nf4Linear
from trimtab.models.packed import attach, packings
from trimtab.models.precision import MXFP4, NF4
from trimtab.models.routed import ROUTED


class Nf4Config(QuantizationConfigMixin):
    """NF4 in blocks of 64 with double quantisation, linear layers and fused experts."""

    def __init__(self, skip_modules: Sequence[str] | None = None, **_: object) -> None:
        """Notes the modules that are left alone; None is heads and what is tied to them."""
        skipped = None if skip_modules is None else list(skip_modules)
        vars(self).update(quant_method=NF4, skip_modules=skipped)


class Mxfp4Config(QuantizationConfigMixin):
    """MXFP4 blocks and scales, kept as they are in the checkpoint."""

    def __init__(self, **_: object) -> None:
        vars(self).update(quant_method=MXFP4)

    def to_dict(self) -> dict[str, str]:
        """As published, so that what we save anybody can load."""
        return {"quant_method": "mxfp4"}


class _PackedQuantizer(HfQuantizer):
    """What both have in common: fused experts are packed and read through a parametrization."""

    experts: frozenset[str] = frozenset()
    """Names of the fused expert tensors."""
    compute_dtype: torch.dtype = torch.bfloat16

    @property
    def is_trainable(self) -> bool:  # type: ignore[override]
        """No: gradients do not reach packed weights."""
        return False

    def is_serializable(self) -> bool:  # type: ignore[override]
        """Yes, with `save_original_format=False`."""
        return True

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Learns the dtype that the model computes in, and leaves it."""
        self.compute_dtype = dtype
        return dtype

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> Any:  # noqa: ANN401
        """None for what our operations read: they cast themselves."""
        reading = any(isinstance(op, READS) for op in getattr(converter, "operations", ()))
        return None if reading else super().get_new_dtype(converter, param, dtype)

    def param_needs_quantization(self, model: Any, param_name: str, **_: object) -> bool:  # noqa: ANN401, ARG002
        """Whether a parameter is packed, so that its shape on the way in may be another."""
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
            elif not module._parameters[parameter].is_floating_point():
                raise ModelError(f"{name} is packed in a way that is not supported.")

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[Tensors, dict[str, str]]:  # type: ignore[override]
        """What a checkpoint of ours holds."""
        state: Tensors = dict(model.state_dict())
        for prefix, module in model.named_modules():
            for name, packing, packed in packings(module):
                del state[f"{prefix}.parametrizations.{name}.original"]
                state |= packing.tensors(f"{prefix}.{name}", packed)
        return state, {}

    def _expert_keys(self) -> list[str]:
        return sorted({".".join(name.split(".")[-2:]) for name in self.experts})


class Nf4Quantizer(_PackedQuantizer):
    """NF4, while loading or from a checkpoint that holds it."""

    @property
    def quantized_element_size(self) -> float:
        """Bytes a weight, for a map over devices."""
        return 0.516

    def param_needs_quantization(self, model: Any, param_name: str, **_: object) -> bool:  # noqa: ANN401
        """Linear layers' weights and fused experts."""
        module, name = get_module_from_name(model, param_name)
        linear = isinstance(module, Linear4bit) and name == "weight"
        return linear or param_name in self.experts

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: object) -> None:  # type: ignore[override]
        super()._process_model_before_weight_loading(model)
        config: Any = self.quantization_config
        kept = self.get_modules_to_not_convert(
            model, config.skip_modules, list(model._keep_in_fp32_modules or ())
        )
        self.experts = frozenset(
            name for name in self.experts if should_convert_module(name.rpartition(".")[0], kept)
        )
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and should_convert_module(name, kept):
                model.set_submodule(name, _linear(module, self.compute_dtype))

    def get_quantize_ops(self) -> ConversionOps:
        """For a tensor that came as it is in the model."""
        return QuantizeNf4()

    def update_weight_conversions(self, weight_conversions: Any, model: Any) -> list[Any]:  # noqa: ANN401
        """Experts that come apart are packed, or joined as packed, instead of merged dense."""
        own = [self._own(conversion) for conversion in weight_conversions]
        return super().update_weight_conversions(own, model) if self.pre_quantized else own

    def _own(self, conversion: WeightTransform) -> WeightTransform:
        targets = list(conversion._original_target_patterns)
        ours = any(targets[0].endswith(key) for key in self._expert_keys())
        if not (ours and isinstance(conversion, WeightConverter) and _merges(conversion)):
            return conversion
        sources = list(conversion._original_source_patterns)
        if not self.pre_quantized:
            return conversion.copy(sources, targets, operations=[PackNf4()])
        parts = [source + part for source in sources for part in ("", *NF4_PARTS)]
        return conversion.copy(parts, targets, operations=[JoinNf4()])

    def get_weight_conversions(self) -> list[WeightConverter]:
        """How packed tensors are read."""
        if not self.pre_quantized:
            return []
        return [
            WeightConverter([key, *(key + part for part in NF4_PARTS)], key, [ReadNf4()])
            for key in ("weight", *self._expert_keys())
        ]


class Mxfp4Quantizer(_PackedQuantizer):
    """MXFP4 from a checkpoint that holds it."""

    @property
    def quantized_element_size(self) -> float:
        """Bytes a weight, for a map over devices."""
        return 0.53125

    def get_weight_conversions(self) -> list[WeightConverter]:
        """How blocks and scales are read."""
        return [
            WeightConverter([key + BLOCKS, key + SCALES], key, [ReadMxfp4()])
            for key in self._expert_keys()
        ]


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


def _merges(converter: WeightConverter) -> bool:
    """Whether it stacks experts, and joins gate and up along an expert's rows."""
    kinds = [
        (type(operation), getattr(operation, "dim", None)) for operation in converter.operations
    ]
    stack, join = (MergeModulelist, 0), (Concatenate, 1)
    return kinds in ([stack], [stack, join])


register_quantization_config(NF4)(Nf4Config)
register_quantization_config(MXFP4)(Mxfp4Config)
register_quantizer(NF4)(Nf4Quantizer)
register_quantizer(MXFP4)(Mxfp4Quantizer)
