"""Packed experts at work: only those that tokens were routed to are unpacked.

An experts implementation for transformers, by name. A batch of few tokens reaches few experts;
unpacking the others would be most of its time. It cuts the module down to the experts that were
routed to and hands that to transformers' own grouped implementation, so that the products are
those of the whole tensor. Where every expert is needed, the whole tensor is read once.

Llama 4's experts take no implementation: every token goes through all of them.
"""

from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from trimtab.models.packed import packings

ROUTED: Final = "trimtab_routed"
"""Its name among transformers' experts implementations."""


class _Chosen:
    """An experts module cut down to some experts; what is not said here is the module's own."""

    def __init__(self, module: nn.Module, experts: Int[Tensor, " some"]) -> None:
        self._module, self._experts = module, experts
        self._packed = {name: (packing, packed) for name, packing, packed in packings(module)}
        self.num_experts = len(experts)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name in self._packed:
            packing, packed = self._packed[name]
            return packing.unpack(packed, self._experts)
        value = getattr(self._module, name)
        return value[self._experts] if name.endswith("_proj_bias") else value


def routed_experts_forward(
    self: nn.Module,
    hidden_states: Float[Tensor, "tokens d_model"],
    top_k_index: Int[Tensor, "tokens top_k"],
    top_k_weights: Float[Tensor, "tokens top_k"],
) -> Float[Tensor, "tokens d_model"]:
    """The experts' output, summed over each token's experts.

    Args:
        self: an experts module with packed parameters, or a plain one.
        hidden_states: what goes in.
        top_k_index: each token's experts.
        top_k_weights: what each of them counts.
    """
    experts = torch.unique(top_k_index)
    if len(experts) == self.num_experts or not any(packings(self)):
        return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    chosen: Any = _Chosen(self, experts)
    places = torch.searchsorted(experts, top_k_index)
    return grouped_mm_experts_forward(chosen, hidden_states, places, top_k_weights)


ALL_EXPERTS_FUNCTIONS.register(ROUTED, routed_experts_forward)
