"""Keys and values that grow in place: transformers' own cache without its copy at every step.

`DynamicLayer` joins the whole past with one new token at each step, so that a decode of n tokens
copies n^2 / 2 of them: for 64 rows of 600 tokens on Qwen3-8B 11 GB of memory traffic a step, beside
16 GB of weights. Here there is room for `ROOM` tokens ahead; a step writes one place. What attention
gets are the same numbers. Layers of other kinds (sliding windows, chunks) are bounded already and stay
as the model made them.
"""

from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM: Final = 64
"""Tokens of room that are added when it is used up."""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, in buffers with room ahead."""

    def __init__(
        self,
        keys: Float[Tensor, "rows heads tokens head_dim"],
        values: Float[Tensor, "rows heads tokens head_dim"],
    ) -> None:
        """Takes over what a prefill left."""
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._length = keys.shape[-2]
        self._buffers = [_with_room(keys), _with_room(values)]
        self._show()

    def update(
        self,
        key_states: Float[Tensor, "rows heads new head_dim"],
        value_states: Float[Tensor, "rows heads new head_dim"],
        *_args: Any,  # noqa: ANN401 (as transformers has it)
        **_kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Writes the new tokens and shows the whole past."""
        start, self._length = self._length, self._length + key_states.shape[-2]
        if self._length > self._buffers[0].shape[-2]:
            self._buffers = [_with_room(buffer[..., :start, :]) for buffer in self._buffers]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start : self._length, :] = new
        return self._show()

    def batch_select_indices(self, indices: Int[Tensor, " kept"]) -> None:
        """Only keeps these rows."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[..., : self._length, :] for buffer in self._buffers)
        return self.keys, self.values


def grow_in_place(cache: Any) -> None:  # noqa: ANN401 (transformers' caches share no type)
    """Replaces a prefilled cache's plain growing layers by ones that do not copy."""
    for number, layer in enumerate(getattr(cache, "layers", [])):
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None:
            cache.layers[number] = GrowingLayer(layer.keys, layer.values)


def _with_room(past: Tensor) -> Tensor:
    rows, heads, tokens, width = past.shape
    buffer = torch.empty(rows, heads, tokens + ROOM, width, dtype=past.dtype, device=past.device)
    buffer[..., :tokens, :] = past
    return buffer
