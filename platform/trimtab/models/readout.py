"""From the last block's output to logits: a model's own final norm and head, by themselves.

What comes after the blocks (norm, head, scaling, soft caps) differs by architecture and is not
written down here: the model's own forward is run with its blocks replaced by one stand-in that
hands in the states at hand. Every position is a sequence of its own, since nothing after the
blocks looks sideways.

Cost: one embedding look-up and one head product a position; n x vocabulary logits are returned, so
whoever calls cuts n (152k x 512 in float32 are 311 MB).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.models.blocks import Decoder


class _StandIn(nn.Module):
    """In the blocks' place: whatever comes in, the states at hand go out."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ANN401
        return self.states.to(hidden)


@contextmanager
def _blocks_replaced(decoder: Decoder, stand_in: nn.Module) -> Iterator[None]:
    real = getattr(decoder.module, decoder.block_list)
    setattr(decoder.module, decoder.block_list, nn.ModuleList([stand_in]))
    try:
        yield
    finally:
        setattr(decoder.module, decoder.block_list, real)


def read_out(
    model: nn.Module, decoder: Decoder, states: Float[Tensor, "n d_model"]
) -> Float[Tensor, "n vocabulary"]:
    """The logits that a causal LM gives at states which its last block put out.

    Args:
        model: the causal LM, head included.
        decoder: its blocks.
        states: any number of positions.
    """
    tokens = torch.zeros(len(states), 1, dtype=torch.int64, device=decoder.device)
    with _blocks_replaced(decoder, _StandIn(states[:, None])):
        return model(input_ids=tokens, use_cache=False).logits[:, 0]
