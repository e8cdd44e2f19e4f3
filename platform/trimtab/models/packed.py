"""Fused expert tensors that stay packed, and read as dense ones.

A mixture of experts holds nearly all its weights in 3-D parameters, which bitsandbytes' 4-bit
layers do not reach. Here such a parameter keeps its packed bytes, and a torch parametrization
turns them into the dense tensor when the model reads it: all of it, or (`Packing.unpack`) only
some experts. What was unpacked is kept while the experts' module runs, because its forward reads
the parameter many times, and dropped when that forward ends, on an exception too: never more than
one layer is dense. The formats are `Mxfp4` here, which keeps the checkpoint's own bytes, and
`nf4.Nf4`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trimtab.models.mxfp4 import BLOCKS, GROUP, SCALES, unpack


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

    def check(self, packed: Tensor) -> None:
        """Raises a ModelError if these cannot be the bytes; nothing is known of them here."""

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


class Mxfp4(Packing):
    """A checkpoint's own blocks and scales."""

    precision = "mxfp4"
    scales: Tensor

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


def packed_parameter(packed: Tensor, packing: Packing) -> nn.Parameter:
    """Packed bytes as a parameter that carries how to read them, until it is attached.

    Raises:
        ModelError: the bytes are not as many as the shape needs.
    """
    packing.check(packed)
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
