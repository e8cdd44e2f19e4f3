"""GPUs that are not there: tensors that say they lie on one and hold their numbers on the CPU.

    with pretend_gpus() as waits:
        put(model, 2)                       # half of its blocks on cuda:0, half on cuda:1
        model(tokens.to("cuda:0"))

Code runs to its end with true numbers, `.item()` and all. An operation is refused where CUDA refuses
it: its tensors lie on several devices. A scalar or an index on the CPU may meet a GPU, and a copy
may go anywhere. Kernels are not tried, nor streams, nor what they cost; but what leaves a GPU is
written down, since each such copy waits for all that was asked of it, unless it is told not to.

torch's own FakeTensorMode has no numbers, so it ends at the first branch on one; built without CUDA,
torch cannot even index its tensors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

import torch
from accelerate import dispatch_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

from trimtab.models.blocks import locate_decoder

aten = torch.ops.aten
EMPTY: Final = torch.empty
CPU: Final = torch.device("cpu")
COPIES: Final = {aten.to, aten._to_copy, aten.copy_}
ANYWHERE: Final = {*COPIES, aten._has_compatible_shallow_copy_type}
NUMBERS: Final = {
    *(Tensor.item, Tensor.tolist, Tensor.nonzero),
    *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
}
"""What the host waits for."""

_waits: list[str] = []


class OnGpu(Tensor):
    """Says it lies on a GPU."""

    held: Tensor

    @staticmethod
    def __new__(cls: type["OnGpu"], held: Tensor, device: torch.device) -> "OnGpu":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None) -> Any:  # noqa: ANN001, ANN401
        # These are written in C++ with a device guard, which a torch without CUDA has not.
        if func in NUMBERS:
            _waits.append(func.__name__)
            return _on(args[0].device, func(args[0].held))
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            _check(func, args[0].device, tree_leaves(args[1]))
            return _on(args[0].device, func(*tree_map(_held, args)))
        if func is Tensor.copy_:
            return aten.copy_.default(*args, **(kwargs or {}))
        if func is Tensor.contiguous and not args[0].is_contiguous():
            return aten.clone.default(*args, memory_format=torch.contiguous_format)
        if func is Tensor.contiguous:
            return args[0]
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None) -> Any:  # noqa: ANN001, ANN401
        return _run(func, args, kwargs or {})


class _Made(TorchDispatchMode):
    """What is made on a device, of no tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:  # noqa: ANN001, ANN401
        return _run(func, args, kwargs or {})


@contextmanager
def pretend_gpus() -> Iterator[list[str]]:
    """Lets `cuda:0` and its like be devices inside the block.

    Yields:
        What the host had to wait for: the calls by which numbers left a GPU.
    """
    _waits.clear()
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    overwrite = "_overwrite_module_params_on_conversion"
    try:
        with (
            mock.patch.object(torch.cuda, "_lazy_init"),
            mock.patch.object(torch.__future__, overwrite, True),
            mock.patch.object(torch, "empty", _unpinned),
            _Made(),
        ):
            yield _waits
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)


def put(model: PreTrainedModel, gpus: int) -> None:
    """A causal LM onto GPUs, each with as many of its blocks, as `device_map` has it done."""
    if gpus == 1:
        model.to("cuda:0")
        return
    decoder = locate_decoder(model)
    last = f"cuda:{gpus - 1}"
    places = {f"model.{name}": "cuda:0" for name, _ in decoder.module.named_children()}
    del places["model.layers"]
    for layer in range(decoder.num_layers):
        places[f"model.layers.{layer}"] = f"cuda:{layer * gpus // decoder.num_layers}"
    places |= {"model.norm": last, "lm_head": last}
    skipped = model._skip_keys_device_placement
    dispatch_model(model, places, "cuda:0", skip_keys=skipped, force_hooks=True)


def _unpinned(*size: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """For a thread that reads ahead, which knows nothing of `_Made`; pinning takes a GPU."""
    return EMPTY(*size, **kwargs)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """The operation on what the tensors hold; its result lies where CUDA would have it."""
    name, leaves = func.overloadpacket, tree_leaves((args, kwargs))
    asked = [_numbered(leaf) for leaf in leaves if isinstance(leaf, torch.device)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if name is aten.to:
        asked += [other.device for other in tensors[1:]]
    here = _place(func, args, tensors)
    there = asked[0] if asked else here
    given = {one.name: x for one, x in zip(func._schema.arguments, args, strict=False)} | kwargs
    leaves_gpu = there == CPU and any(x.device != CPU for x in tensors)
    if name in COPIES and leaves_gpu and not given.get("non_blocking"):
        _waits.append(str(name))
    kwargs = {key: x for key, x in kwargs.items() if key != "pin_memory"}
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name is aten.to and there != here:
        out = out.clone()  # on the CPU it would be the tensor itself
    written = _written(func, args)
    return written if written is not None else _on(there, out)


def _place(func: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> torch.device:  # noqa: ANN401
    """Where an operation runs."""
    if func.overloadpacket in ANYWHERE:
        return tensors[0].device
    if func.overloadpacket is aten.index:
        _check(func, args[0].device, args[1])
        return args[0].device
    here = next((x.device for x in tensors if x.device != CPU), CPU)
    _check(func, here, [x for x in tensors if x.dim() or x.device != CPU], strict=True)
    return here


def _written(func: Any, args: tuple[Any, ...]) -> Tensor | None:  # noqa: ANN401
    """The tensor that an operation writes to and returns."""
    returned = [one.alias_info for one in func._schema.returns]
    return args[0] if any(alias is not None and alias.is_write for alias in returned) else None


def _check(func: object, here: torch.device, others: list[Any], *, strict: bool = False) -> None:
    """Refuses tensors that are elsewhere, as CUDA does."""
    for x in others:
        if isinstance(x, Tensor) and x.device != here and (strict or x.device != CPU):
            raise RuntimeError(f"{func} has tensors on {here} and on {x.device}")


def _numbered(device: torch.device) -> torch.device:
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _held(x: object) -> object:
    return x.held if isinstance(x, OnGpu) else CPU if isinstance(x, torch.device) else x


def _on(device: torch.device, out: object) -> Any:  # noqa: ANN401
    return tree_map(
        lambda x: OnGpu(x, device) if isinstance(x, Tensor) and device != CPU else x, out
    )
