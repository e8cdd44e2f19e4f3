"""Memory for two blocks, and how a checkpoint's bytes land in it.

The memory is taken once. Blocks of even number live in one half, odd ones in the other, each weight
at a multiple of 256 bytes, so a weight has the alignment that it has in a model of its own. A stored
tensor of the right dtype is read where it belongs; one of another dtype passes through 16 MiB; MXFP4
passes through one expert.

On a GPU bytes are read into one block of pinned memory and copied by a stream of their own, tensor
by tensor, while the block before computes; MXFP4 travels packed and is unpacked there.
"""

import math
from collections.abc import Sequence
from threading import Event
from typing import Final, NamedTuple

import torch
from torch import Tensor

from trimtab.models.mxfp4 import GROUP, unpack
from trimtab.models.rawfile import bytes_of
from trimtab.models.shards import Reader, Stored
from trimtab.models.skeleton import Piece, Weight

ALIGNMENT: Final = 256
CHUNK: Final = 16 << 20
"""Bytes of another dtype that are converted at once."""


class Placed(NamedTuple):
    """A weight and where it begins in its half."""

    weight: Weight
    """What lies there."""
    offset: int
    """Bytes from the start of the half."""


def layout(weights: Sequence[Weight]) -> list[Placed]:
    """One after another, each aligned."""
    placed, offset = [], 0
    for weight in weights:
        placed.append(Placed(weight, offset))
        offset += -(-weight.nbytes // ALIGNMENT) * ALIGNMENT
    return placed


def size(placed: Sequence[Placed]) -> int:
    """Bytes that a layout takes."""
    return max((offset + weight.nbytes for weight, offset in placed), default=0)


def view(memory: Tensor, placed: Placed) -> Tensor:
    """The weight itself, in a half's memory."""
    weight, offset = placed
    raw = memory[offset : offset + weight.nbytes]
    return raw.view(weight.dtype).view(weight.shape)


class Slots:
    """Two halves in the CPU's memory."""

    def __init__(self, blocks: Sequence[Sequence[Weight]], device: torch.device) -> None:
        self.layouts = [layout(weights) for weights in blocks]
        most = max(size(placed) for placed in self.layouts)
        self.halves = [torch.empty(most, dtype=torch.uint8, device=device) for _ in range(2)]
        self._landing = Landing()

    def half(self, layer: int) -> Tensor:
        """The memory that a block computes from."""
        return self.halves[layer % 2]

    @torch.inference_mode()
    def fill(self, layer: int, reader: Reader, stop: Event) -> None:
        """Reads a block's weights; returns early once `stop` is set. Runs in the reading thread.

        Raises:
            ModelError: a file is gone, damaged, or cannot be read.
        """
        for placed in self.layouts[layer]:
            weight = view(self.half(layer), placed)
            for piece in placed.weight.pieces:
                if stop.is_set():
                    return
                self._landing.land(piece, weight[piece.where], reader)

    def ready(self) -> None:
        """What computes next finds the block that was filled last."""

    def used(self, layer: int) -> None:
        """What was computed so far is all that reads this block."""


class CudaSlots(Slots):
    """Two halves on a GPU, and a block of pinned memory before them."""

    def __init__(self, blocks: Sequence[Sequence[Weight]], device: torch.device) -> None:
        super().__init__(blocks, device)
        self.device = device
        self.pinned = torch.empty(self.halves[0].numel(), dtype=torch.uint8, pin_memory=True)
        self.stream = torch.cuda.Stream(device)
        for half in self.halves:  # let go of in the middle of a block, it is not reused before
            half.record_stream(self.stream)
        self._copied = torch.cuda.Event()
        self._computed = [torch.cuda.Event(), torch.cuda.Event()]

    @torch.inference_mode()
    def fill(self, layer: int, reader: Reader, stop: Event) -> None:
        """See `Slots`; the last copies may still be on their way when it returns."""
        self._copied.synchronize()  # or pinned memory would change under the block before
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            self.stream.wait_event(self._computed[layer % 2])
            for placed in self.layouts[layer]:
                for piece in placed.weight.pieces:
                    if stop.is_set():
                        break
                    self._send(piece, placed, layer, reader)
            self._copied.record(self.stream)

    def _send(self, piece: Piece, placed: Placed, layer: int, reader: Reader) -> None:
        there = view(self.half(layer), placed)
        if piece.scales is None:
            here = view(self.pinned, placed)[piece.where]
            self._landing.land(piece, here, reader)
            there[piece.where].copy_(here, non_blocking=True)
            return
        room = self.pinned[placed.offset : placed.offset + placed.weight.nbytes]
        blocks, scales = room[: piece.stored.nbytes], room[piece.stored.nbytes :]
        scales = scales[: piece.scales.nbytes]  # packed, a quarter of the room and a bit
        reader.read(piece.stored, bytes_of(blocks))
        reader.read(piece.scales, bytes_of(scales))
        unpack(
            blocks.to(self.device, non_blocking=True).view(piece.stored.shape),
            scales.to(self.device, non_blocking=True).view(piece.scales.shape),
            into=there,
        )

    def ready(self) -> None:
        """See `Slots`."""
        torch.cuda.current_stream(self.device).wait_event(self._copied)

    def used(self, layer: int) -> None:
        """See `Slots`."""
        self._computed[layer % 2].record(torch.cuda.current_stream(self.device))


class Landing:
    """Reads pieces into the CPU's memory, through as little other memory as it takes."""

    def __init__(self) -> None:
        self._scratch = torch.empty(0, dtype=torch.uint8)

    def land(self, piece: Piece, into: Tensor, reader: Reader) -> None:
        """Fills the memory with a stored tensor's values.

        Raises:
            ModelError: its file is gone, damaged, or cannot be read.
        """
        if piece.scales is not None:
            self._unpack(piece.stored, piece.scales, into, reader)
        elif piece.stored.dtype == into.dtype and into.is_contiguous():
            reader.read(piece.stored, bytes_of(into))
        else:
            self._convert(piece.stored, into, reader, 0)

    def _convert(self, stored: Stored, into: Tensor, reader: Reader, first: int) -> None:
        """Values from the `first` on; memory with gaps is filled row by row."""
        if not into.is_contiguous():
            for number, row in enumerate(into):
                self._convert(stored, row, reader, first + number * row.numel())
            return
        for part in into.view(-1).split(CHUNK // stored.dtype.itemsize):
            raw = self._room(part.numel() * stored.dtype.itemsize)
            reader.read(stored, bytes_of(raw), first * stored.dtype.itemsize)
            part.copy_(raw.view(stored.dtype))
            first += part.numel()

    def _unpack(self, stored: Stored, scales: Stored, into: Tensor, reader: Reader) -> None:
        _, out, groups = scales.shape
        blocks, exponents = (math.prod(packed.shape[1:]) for packed in (stored, scales))
        for expert, weights in enumerate(into):
            raw = self._room(blocks + exponents)
            reader.read(stored, bytes_of(raw[:blocks]), expert * blocks)
            reader.read(scales, bytes_of(raw[blocks:]), expert * exponents)
            unpack(
                raw[:blocks].view(1, out, groups, GROUP // 2),
                raw[blocks:].view(1, out, groups),
                into=weights[None],
            )

    def _room(self, nbytes: int) -> Tensor:
        if self._scratch.numel() < nbytes:
            self._scratch = torch.empty(nbytes, dtype=torch.uint8)
        return self._scratch[:nbytes]
