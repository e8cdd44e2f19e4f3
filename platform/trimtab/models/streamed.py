"""The streamed block source: a model of any size, one block's weights at a time.

Each block is the model's own module; its parameters point for good into one of two halves of memory
that a reading thread fills from the checkpoint, the next block while this one computes. Nothing is
copied, quantised or rounded, and weights are aligned as a loaded model's are, so that the numbers
are the resident model's to the bit. The embedding is there only until the first block is asked for.

Costs memory for two blocks (4.98 GB each for Qwen3-235B-A22B) and, for each block of prompts, one
reading of the embedding and of the blocks up to the deepest layer. A checkpoint in MXFP4 streams as
it is and is unpacked into a block's memory; one in NF4 does not stream, since it fits.
"""

import logging
import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from trimtab.core.errors import ModelError
from trimtab.models.blocks import Start, embedding_name
from trimtab.models.card import ModelConfig
from trimtab.models.loading import DTYPES, device_of, dtype_name, read_config, translated
from trimtab.models.shards import Reader, checkpoint_files, read_headers
from trimtab.models.skeleton import Skeleton, Weight, build_skeleton
from trimtab.models.slots import CudaSlots, Landing, Slots, view

log = logging.getLogger(__name__)

THREAD: Final = "trimtab-reader"
"""What the reading thread is called."""


class StreamedDecoder:
    """A block source that reads its weights while it goes. One run at a time."""

    def __init__(self, skeleton: Skeleton, device: torch.device) -> None:
        """Takes memory for two blocks on the device; reads nothing."""
        self.num_layers = skeleton.decoder.num_layers
        self.d_model = skeleton.decoder.d_model
        self.seconds_waited = 0.0
        """How long blocks were waited for, since the source was opened."""
        self._decoder = skeleton.decoder
        self._dtype = str(skeleton.blocks[0][0].dtype).removeprefix("torch.")
        self._modules = list(skeleton.decoder.blocks(self.num_layers - 1))
        self._reader = Reader()
        self._slots = (CudaSlots if device.type == "cuda" else Slots)(skeleton.blocks, device)
        self.device = self._slots.halves[0].device  # with its number, to be compared with tensors'
        self._beside = _by_owner(skeleton.beside)
        self._borrowed: list[tuple[nn.Module, str, Tensor]] = []
        self._bind()

    @property
    def bytes_read(self) -> int:
        """Bytes of the checkpoint that were read since the source was opened."""
        return self._reader.bytes_read

    @property
    def held(self) -> dict[str, int]:
        """Bytes of weights in memory at any time, by precision: two blocks."""
        return {self._dtype: sum(half.nbytes for half in self._slots.halves)}

    def start(self, tokens: Int[Tensor, "batch tokens"]) -> Start:
        """Embeds a batch and records the blocks' arguments; the first call reads the embedding.

        Raises:
            ModelError: the embedding cannot be read, or something happens between blocks.
        """
        self._fetch(embedding_name(self._decoder.module))
        return self._decoder.start(tokens)

    def blocks(self, deepest: int, first: int = 0) -> Generator[nn.Module, None, None]:
        """Blocks `first` to `deepest`, in order, the next one read ahead.

        The reading thread has ended when the generator has, whichever way it does.

        Raises:
            ModelError: a weight cannot be read.
        """
        self._release()
        stop = Event()
        with closing(self._reader), ThreadPoolExecutor(1, THREAD) as thread:
            try:
                ahead = thread.submit(self._slots.fill, first, self._reader, stop)
                for layer in range(first, deepest + 1):
                    self._wait(ahead)
                    if layer < deepest:
                        ahead = thread.submit(self._slots.fill, layer + 1, self._reader, stop)
                    yield self._modules[layer]
                    self._slots.used(layer)
            finally:
                stop.set()
                self._slots.used(0)
                self._slots.used(1)

    def _wait(self, ahead: Future[None]) -> None:
        start = time.perf_counter()
        ahead.result()
        self._slots.ready()
        self.seconds_waited += time.perf_counter() - start

    def _bind(self) -> None:
        """Blocks to their memory; what stands beside them to the checkpoint, on first use."""
        for layer, module in enumerate(self._modules):
            for placed in self._slots.layouts[layer]:
                _set(module, placed.weight.name, view(self._slots.half(layer), placed))
        for owner in self._beside:
            module = self._decoder.module.get_submodule(owner)
            module.register_forward_pre_hook(lambda *_, owner=owner: self._fetch(owner))
        for module in self._decoder.module.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if not buffer.is_meta:
                    setattr(module, name, buffer.to(self.device))

    def _fetch(self, owner: str) -> None:
        """Reads the weights of a module that stands beside the blocks, unless they are there."""
        module = self._decoder.module.get_submodule(owner)
        for weight in self._beside.get(owner, ()):
            meta = getattr(module, weight.name)
            if meta.is_meta:
                _set(module, weight.name, self._read(weight).to(self.device))
                self._borrowed.append((module, weight.name, meta))

    def _read(self, weight: Weight) -> Tensor:
        memory, landing = torch.empty(weight.shape, dtype=weight.dtype), Landing()
        with closing(self._reader):
            for piece in weight.pieces:
                landing.land(piece, memory[piece.where], self._reader)
        return memory

    def _release(self) -> None:
        while self._borrowed:
            module, name, meta = self._borrowed.pop()
            setattr(module, name, meta)


def open_streamed(spec: ModelConfig) -> StreamedDecoder:
    """The model as a stream of blocks; reads its configuration and its files' headers only.

    Raises:
        ModelError: there is no such model; its checkpoint is missing, damaged, not safetensors,
            or in 4 bits of NF4; or its architecture cannot stream.
    """
    if spec.precision != "published":
        raise ModelError(
            f"Weights stream as they were published, but {spec.id} was asked for in "
            f"{spec.precision}, which is made to fit. Set `source: resident` or `precision: published`."
        )
    config = read_config(spec)
    device = torch.device(device_of(spec))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"{spec.id} was asked for on a GPU, but this process sees none.")
    dtype = DTYPES[dtype_name(spec, config)]
    with translated(spec):
        stored = read_headers(checkpoint_files(spec.id, spec.revision))
        skeleton = build_skeleton(config, dtype, stored)
    source = StreamedDecoder(skeleton, device)
    log.info(
        "%s streams in %s: %d blocks of at most %.2f GB.",
        spec.label,
        str(dtype).removeprefix("torch."),
        source.num_layers,
        max(sum(w.nbytes for w in weights) for weights in skeleton.blocks) / 1e9,
    )
    return source


def _by_owner(weights: list[Weight]) -> Mapping[str, list[Weight]]:
    owners: dict[str, list[Weight]] = {}
    for weight in weights:
        owner, _, leaf = weight.name.rpartition(".")
        owners.setdefault(owner, []).append(weight._replace(name=leaf))
    return owners


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    kept = leaf in owner._parameters
    setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False) if kept else tensor)
