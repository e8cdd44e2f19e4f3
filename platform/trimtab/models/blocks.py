"""A model's decoder blocks, and how to call each of them by itself.

A decoder is found under one standard name: the module that owns both the token embedding and the
list of blocks. How a block wants to be called (masks, positions, sliding windows, chunks, NoPE)
is not written down per architecture: the decoder's own forward is run once over stand-ins that
record what each block would have received. Calling the real blocks with what was recorded is the
model's own computation, to the bit; `Decoder.verify` proves that for the model at hand.

The cost of recording is one embedding look-up and the masks of one batch; the forward ends at the
last block, so that the final norm need not be there.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trimtab.core.errors import ModelError

BLOCK_LISTS: Final = ("layers", "h", "blocks")
EMBEDDINGS: Final = ("embed_tokens", "wte", "embed_in")


class Call(NamedTuple):
    """The arguments that a block gets besides the hidden states."""

    args: tuple[Any, ...]
    """Positional ones."""
    kwargs: dict[str, Any]
    """Named ones: mask, positions, rotary embedding."""


class Start(NamedTuple):
    """A batch at the entrance of the first block."""

    hidden: Float[Tensor, "batch tokens d_model"]
    """The embedded tokens."""
    calls: list[Call]
    """For each block, what it is called with."""


@runtime_checkable
class BlockSource(Protocol):
    """Where the engine gets its blocks from: a resident model's own, or a stream of them."""

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    def start(self, tokens: Int[Tensor, "batch tokens"]) -> Start:
        """Embeds a batch and records the blocks' arguments."""
        ...

    def blocks(self, deepest: int, first: int = 0) -> Generator[nn.Module, None, None]:
        """Blocks `first` to `deepest`, in order; each is valid until the next one is asked for."""
        ...


class _AllRecorded(Exception):  # noqa: N818 (no error)
    """Ends the decoder's forward at its last block."""


class _Recorder(nn.Module):
    """Stands in for a block: notes its arguments and passes the hidden states on."""

    hidden: Tensor
    call: Call

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        self.hidden, self.call = hidden, Call(args, kwargs)
        if self.last:
            raise _AllRecorded
        return hidden


@dataclass(frozen=True, eq=False)
class Decoder:
    """The resident block source: a loaded model's own blocks."""

    module: nn.Module
    """Owns the embedding and the list of blocks."""
    block_list: str
    """The attribute that holds the blocks."""
    d_model: int
    """Width of the residual stream."""

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self._list)

    @property
    def _list(self) -> nn.ModuleList:
        return cast(nn.ModuleList, getattr(self.module, self.block_list))

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        return next(self.module.parameters()).device

    def blocks(self, deepest: int, first: int = 0) -> Generator[nn.Module, None, None]:
        """Blocks `first` to `deepest`, in order."""
        yield from list(self._list)[first : deepest + 1]

    def start(self, tokens: Int[Tensor, "batch tokens"]) -> Start:
        """Embeds a batch and records what each block would be called with.

        Raises:
            ModelError: something happens to the hidden states between two blocks.
        """
        with self._recorders() as recorders, suppress(_AllRecorded):
            self.module(input_ids=tokens, use_cache=False)
        for layer, (before, after) in enumerate(pairwise(recorders)):
            if after.hidden is not before.hidden:
                raise self._between(layer)
        return Start(recorders[0].hidden, [recorder.call for recorder in recorders])

    def _between(self, layer: int) -> ModelError:
        return ModelError(
            f"Block {layer} of {type(self.module).__name__} gives another result by itself than "
            "inside the model's forward, so something happens between its blocks. This "
            "architecture is not supported."
        )

    @contextmanager
    def _recorders(self) -> Iterator[list[_Recorder]]:
        real = self._list
        recorders = [_Recorder(last=i == len(real) - 1) for i in range(len(real))]
        setattr(self.module, self.block_list, nn.ModuleList(recorders))
        try:
            yield recorders
        finally:
            setattr(self.module, self.block_list, real)

    @torch.inference_mode()
    def verify(self) -> None:
        """Runs two tokens block by block and compares with the model's own forward.

        Raises:
            ModelError: a block's output is not `[batch, tokens, d_model]`, or the blocks one
                after another do not give what the model's forward gives.
        """
        tokens = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
        hidden, calls = self.start(tokens)
        outputs = []
        for layer, (block, call) in enumerate(zip(self._list, calls, strict=True)):
            hidden = block(hidden, *call.args, **call.kwargs)
            if not isinstance(hidden, Tensor) or hidden.shape != (1, 2, self.d_model):
                found = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
                raise ModelError(
                    f"Every block must return [batch, tokens, d_model={self.d_model}], but block "
                    f"{layer} of {type(self.module).__name__} returned {found} for 1 x 2 tokens. "
                    "This architecture is not supported."
                )
            outputs.append(hidden)
        for layer, (ours, theirs) in enumerate(zip(outputs, self._hooked(tokens), strict=True)):
            if not torch.allclose(ours, theirs, rtol=0, atol=0, equal_nan=True):
                raise self._between(layer)

    def _hooked(self, tokens: Tensor) -> list[Tensor]:
        seen: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda *call: seen.append(cast(Tensor, call[2])))
            for block in self._list
        ]
        try:
            self.module(input_ids=tokens, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return seen


def find_decoder(model: nn.Module) -> Decoder:
    """The decoder inside a causal LM or the text part of a multimodal model, verified.

    Raises:
        ModelError: no module owns both an embedding and blocks under a known name, several do,
            or the blocks do not behave as blocks.
    """
    decoder = locate_decoder(model)
    decoder.verify()
    return decoder


def locate_decoder(model: nn.Module) -> Decoder:
    """As `find_decoder`, but unverified: of a model on the meta device, which cannot run.

    Raises:
        ModelError: no module owns both an embedding and blocks under a known name, or several do.
    """
    found = [
        (module, block_list)
        for module in model.modules()
        for block_list in BLOCK_LISTS
        if any(isinstance(getattr(module, name, None), nn.Module) for name in EMBEDDINGS)
        and isinstance(getattr(module, block_list, None), nn.ModuleList)
    ]
    if len(found) != 1:
        raise ModelError(
            f"Exactly one module of {type(model).__name__} must hold a token embedding "
            f"({' or '.join(EMBEDDINGS)}) and a list of decoder blocks ({' or '.join(BLOCK_LISTS)}), "
            f"but {len(found)} do. This architecture is not supported."
        )
    module, block_list = found[0]
    embedding = getattr(module, embedding_name(module))
    width = int(getattr(module.config, "hidden_size", embedding.embedding_dim))
    return Decoder(module, block_list, width)


def embedding_name(module: nn.Module) -> str:
    """Under which attribute a decoder holds its token embedding."""
    return next(name for name in EMBEDDINGS if hasattr(module, name))
