"""One vector per prompt: the mean over its tokens, or its last token.

Equal-length batches have no padding, so pooling needs no mask, and the last token is the last
position. (The study's released code indexes `mask.sum() - 1` under left padding, which is a token
in the middle of every row but the longest; what that reads depends on the batch, so it is not
offered.) Means are taken in float32 whatever the model computes in.
"""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor


def mean(hidden: Float[Tensor, "batch tokens d_model"]) -> Float[Tensor, "batch d_model"]:
    """Mean over all tokens, a leading BOS included; float32."""
    return hidden.mean(dim=1, dtype=torch.float32)


def mean_without_first(
    hidden: Float[Tensor, "batch tokens d_model"],
) -> Float[Tensor, "batch d_model"]:
    """Mean over all tokens but the first, for tokenizers that add a BOS; float32."""
    return hidden[:, 1:].mean(dim=1, dtype=torch.float32)


def last(hidden: Float[Tensor, "batch tokens d_model"]) -> Float[Tensor, "batch d_model"]:
    """The last token; float32."""
    return hidden[:, -1].float()


POOLINGS: Final = ("mean", "last")


def pooler(pooling: str, skip_first: bool) -> Callable[[Tensor], Tensor]:
    """The function for a pooling's name.

    Args:
        pooling: one of `POOLINGS`.
        skip_first: leave the BOS token out of the mean.
    """
    if pooling == "last":
        return last
    return mean_without_first if skip_first else mean
