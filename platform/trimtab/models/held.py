"""What a loaded model really holds, in bytes and parameters, by precision.

Counted from the tensors and not from the configuration, because a model that was asked for in 4
bits may well be in 16: loaders warn and go on. Every storage counts once, the statistics of
quantised tensors belong to them, and a parameter counts as often as its dense tensor has elements.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from transformers import PreTrainedModel
from transformers.quantizers.quantizers_utils import should_convert_module

from trimtab.core.errors import ModelError
from trimtab.models.packed import Packing

UNQUANTISED: Final = 0.02
"""Largest share of parameters that may stay unquantised beyond those meant to."""
_FLOATS: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Held(NamedTuple):
    """Memory of a model's weights."""

    bytes: dict[str, int]
    """By precision: nf4, mxfp4, bfloat16, ..."""
    parameters: dict[str, int]
    """By precision; a packed one counts as its dense tensor."""

    @property
    def total(self) -> int:
        """Bytes of all precisions."""
        return sum(self.bytes.values())

    def plain(self) -> dict[str, int]:
        """One flat mapping, for a tracker or JSON."""
        flat = {f"{name}_bytes": size for name, size in self.bytes.items()}
        flat |= {f"{name}_parameters": count for name, count in self.parameters.items()}
        return flat | {"total_bytes": self.total}

    def __str__(self) -> str:
        """One line for a log."""
        parts = [
            f"{name} {size / 1e9:.3f} GB ({self.parameters[name] / 1e6:,.1f} M parameters)"
            for name, size in self.bytes.items()
        ]
        return f"{self.total / 1e9:.3f} GB held: " + ", ".join(parts)


class _Part(NamedTuple):
    """One parameter with all that belongs to it."""

    name: str
    precision: str
    parameters: int
    tensors: list[Tensor]


def held_bytes(model: nn.Module) -> Held:
    """Counts every storage of a model once; largest precision first."""
    sizes: dict[str, int] = defaultdict(int)
    parameters: dict[str, int] = defaultdict(int)
    seen: set[tuple[torch.device, int]] = set()
    for part in _parts(model):
        new = [tensor for tensor in part.tensors if _first_time(tensor, seen)]
        sizes[part.precision] += sum(tensor.untyped_storage().nbytes() for tensor in new)
        parameters[part.precision] += part.parameters if new else 0
    order = sorted(sizes, key=lambda name: -sizes[name])
    return Held({name: sizes[name] for name in order}, {name: parameters[name] for name in order})


def check_quantised(
    model: PreTrainedModel, kept: Sequence[str] = (), *, experts_only: bool = False
) -> None:
    """Refuses a model that should be in 4 bits and for the most part is not.

    Embeddings, heads, norms, routers and biases are meant to stay as they are.

    Args:
        model: loaded.
        kept: modules that the checkpoint itself says it left alone.
        experts_only: linear layers are meant to stay too, as in gpt-oss.

    Raises:
        ModelError: more than 2 % of the parameters stayed unquantised beyond those meant to.
    """
    meant = {id(part) for part in _meant(model, kept, experts_only)}
    parts = list(_parts(model))
    stayed = [
        part
        for part in parts
        if getattr(torch, part.precision, None) in _FLOATS and id(part.tensors[0]) not in meant
    ]
    total = sum(part.parameters for part in parts)
    share = sum(part.parameters for part in stayed) / max(total, 1)
    if share > UNQUANTISED:
        worst = max(stayed, key=lambda part: part.parameters)
        raise ModelError(
            f"At most {UNQUANTISED:.0%} of the parameters may stay unquantised, but {share:.1%} of "
            f"{type(model).__name__}'s did, most of them in {worst.name} "
            f"({worst.parameters / 1e6:,.1f} M in {worst.precision}). Its checkpoint or architecture "
            "is not supported in 4 bits; use `precision: published`."
        )


def _meant(model: PreTrainedModel, kept: Sequence[str], experts_only: bool) -> Iterator[Tensor]:
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        plain = (
            isinstance(module, nn.Embedding)
            or module is head
            or "Router" in type(module).__name__
            or (experts_only and isinstance(module, nn.Linear))
            or (kept and not should_convert_module(name, list(kept)))
        )
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if plain or parameter.ndim < 2 or "bias" in parameter_name:
                yield parameter


def _parts(model: nn.Module) -> Iterator[_Part]:
    for name, module in model.named_modules():
        if isinstance(module, Packing):
            continue
        for parameter_name, parameter in module.named_parameters(recurse=False):
            yield _part(f"{name}.{parameter_name}", module, parameter)
        for buffer_name, buffer in module.named_buffers(recurse=False):
            yield _Part(f"{name}.{buffer_name}", _dtype(buffer), 0, [buffer])
        yield from _kernel_parts(name, module)


def _part(name: str, module: nn.Module, parameter: Tensor) -> _Part:
    if isinstance(module, ParametrizationList) and isinstance(module[0], Packing):
        packing: Any = module[0]
        name = name.replace(".parametrizations", "").removesuffix(".original")
        tensors = [parameter, *packing.buffers()]
        return _Part(name, packing.precision, packing.shape.numel(), tensors)
    state: Any = getattr(parameter, "quant_state", None)
    if state is not None:  # bitsandbytes' 4 bits
        nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        tensors = [parameter, state.absmax, state.code, *nested]
        return _Part(name, state.quant_type, state.shape.numel(), tensors)
    return _Part(name, _dtype(parameter), parameter.numel(), [parameter])


def _kernel_parts(name: str, module: nn.Module) -> Iterator[_Part]:
    """MXFP4 experts of transformers itself: what their kernels take is no parameter any more."""
    for projection in ("gate_up_proj", "down_proj"):
        config = getattr(module, f"{projection}_precision_config", None)
        if config is not None:
            weight: Any = getattr(module, projection)
            tensors = [weight.storage.data, config.weight_scale.storage.data]
            count = 2 * tensors[0].numel()
            yield _Part(f"{name}.{projection}", "mxfp4", count, tensors)


def _first_time(tensor: Tensor, seen: set[tuple[torch.device, int]]) -> bool:
    key = (tensor.device, tensor.untyped_storage().data_ptr())
    if key in seen:
        return False
    seen.add(key)
    return True


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
