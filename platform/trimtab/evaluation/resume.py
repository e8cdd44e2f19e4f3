"""A model's forward, taken up again from any layer with another residual.

Where only scores are read, all that lies below an edited layer is the same for every arm: it is
computed once, and each arm goes on from there. The head is computed at the positions asked for
and nowhere else. Nothing is approximated: the blocks are the model's own and get what they get in
its own forward (`trimtab.models.blocks`), and batches have one length, so the result is that of a
hooked forward over the same batch, residuals to the bit.

    for prefix in model.prefixes(tokens, layers=(2, 5)):
        last = model.resume(prefix, prefix.hidden + change)
        logits = model.logits(last[:, -1])

DESIGN 5 (9); PEERS 3.1 ("steering grid").
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trimtab.core.errors import ConfigError
from trimtab.models.blocks import Call, locate_decoder


class Prefix(NamedTuple):
    """A batch after one block, unedited."""

    layer: int
    """The block."""
    hidden: Float[Tensor, "batch tokens d_model"]
    """Its output."""
    calls: list[Call]
    """For each block of the model, what it is called with."""


class _Given(nn.Module):
    """Stands in for all blocks: gives hidden states that were computed elsewhere."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_args: object, **_kwargs: object) -> Tensor:
        return self.hidden


class Resumable:
    """A causal LM whose forward can be cut at any layer."""

    def __init__(self, model: nn.Module) -> None:
        """Finds the blocks.

        Raises:
            ModelError: they cannot be found.
        """
        self.model = model
        self.decoder = locate_decoder(model)

    def prefixes(
        self, tokens: Int[Tensor, "batch tokens"], layers: Collection[int]
    ) -> Iterator[Prefix]:
        """The batch after each of some blocks, in ascending order, from one pass.

        Raises:
            ConfigError: a layer that the model does not have.
        """
        outside = [layer for layer in layers if not 0 <= layer < self.decoder.num_layers]
        if outside:
            raise ConfigError(
                f"`0 <= layer < num_layers` must hold, but got (layer={outside[0]}, "
                f"num_layers={self.decoder.num_layers})."
            )
        return self._prefixes(tokens, layers)

    def _prefixes(self, tokens: Tensor, layers: Collection[int]) -> Iterator[Prefix]:
        hidden, calls = self.decoder.start(tokens)
        blocks = self.decoder.blocks(max(layers, default=-1))
        for layer, block in enumerate(blocks):
            hidden = block(hidden, *calls[layer].args, **calls[layer].kwargs)
            if layer in layers:
                yield Prefix(layer, hidden, calls)

    def resume(
        self, prefix: Prefix, hidden: Float[Tensor, "batch tokens d_model"]
    ) -> Float[Tensor, "batch tokens d_model"]:
        """The last block's output if `hidden` had been the output of the prefix's block.

        Args:
            prefix: where to go on.
            hidden: in its place, of its shape.
        """
        assert hidden.shape == prefix.hidden.shape, "the calls were recorded for this shape"
        first = prefix.layer + 1
        blocks = self.decoder.blocks(self.decoder.num_layers - 1, first)
        for layer, block in enumerate(blocks, first):
            call = prefix.calls[layer]
            hidden = block(hidden, *call.args, **call.kwargs)
        return hidden

    def logits(self, last: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocabulary"]:
        """Final norm and head of single positions of the last block's output.

        The model's own forward does it, over a stand-in for its blocks: whatever it does after
        them (another norm's name, a cap on the logits) is done.
        """
        decoder = self.decoder
        real = getattr(decoder.module, decoder.block_list)
        tokens = torch.zeros(len(last), 1, dtype=torch.int64, device=decoder.device)
        setattr(decoder.module, decoder.block_list, nn.ModuleList([_Given(last[:, None])]))
        try:
            return self.model(input_ids=tokens, use_cache=False).logits[:, 0]
        finally:
            setattr(decoder.module, decoder.block_list, real)
