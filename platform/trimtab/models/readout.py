"""From the last block's output to logits: a model's own final norm and head.

What comes after the blocks (norm, head, scaling, soft caps) differs by architecture and is not
written down here: the model's own forward is run with its blocks replaced by one stand-in that
hands in the states at hand. Every position is a sequence of its own, since nothing after the
blocks looks sideways.

Cost: one embedding look-up and one head product a position; n x vocabulary logits are returned, so
whoever calls cuts n (152k x 512 in float32 are 311 MB).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

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


def contiguous_head(model: PreTrainedModel) -> RemovableHandle:
    """Gives the head its states in one piece, until the handle is removed (or its block left).

    With `logits_to_keep` a model hands its head a slice of every sequence. torch multiplies such a
    slice one sequence at a time; for bfloat16 on a CPU it first copies the head's weights once a
    sequence: 40 GB at Qwen3-8B's shape and 32 rows, and where they do not fit, the process goes on
    without its fast products.
    """
    head = cast(nn.Module, model.get_output_embeddings())
    return head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
