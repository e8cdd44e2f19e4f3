"""The latents that are trained, beside a coder that stays as it is.

The chosen latents' encoder rows, encoder biases and decoder rows are copied into a small coder of
their own, which is what the optimiser sees: weight decay and moments never touch another row. The
rest of the coder gives its share of the reconstruction without gradients.

Where latents compete (topk), the k largest are taken among the trained and the frozen ones
together, as in use, so a frozen latent may win or lose a place though its weights stay; gradients
flow through the winners, as in the training of such a coder. A threshold (jumprelu, batchtopk)
stays as it is. Decoder rows keep the length they came with (1), as in training.

A coder is homogeneous: measured in other units, its rows and columns stay and its offsets scale. So
the loss can count in units in which its margins mean something, and the result is put back.
"""

import copy
import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.edits.align_sets import Chosen
from trimtab.sae.coder import CoderConfig, Kind, Sae

_PART: Final[dict[Kind, Kind]] = {
    "relu": "relu",
    "topk": "relu",
    "batchtopk": "jumprelu",
    "jumprelu": "jumprelu",
}
"""The kind whose activation the trained latents have by themselves."""


class Part:
    """The trained latents as a coder of their own, beside the frozen rest."""

    def __init__(self, sae: Sae, chosen: Chosen, unit: float) -> None:
        """Copies the coder.

        Args:
            unit: the length that everything here counts in; 1 for activations as they are.
        """
        self.chosen = chosen
        self.kind = sae.config.kind
        self.unit = unit
        self.rest = in_units(sae, unit)
        width = len(chosen.latents)
        own = Sae(CoderConfig(kind=_PART[self.kind], width=width, k=1), sae.d_model)
        own.to(sae.center)
        with torch.no_grad():
            for name in ("W_enc", "b_enc", "W_dec", "threshold"):
                getattr(own, name).copy_(getattr(self.rest, name)[chosen.latents])
            own.center.copy_(self.rest.center)
        # A latent with this bias is never active, so the rest is silent where the part speaks.
        self.rest.b_enc[chosen.latents] = -math.inf
        own.b_dec.requires_grad_(False)
        self.own = own
        self._lengths = own.W_dec.detach().norm(dim=1, keepdim=True)

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser sees."""
        return [self.own.W_enc, self.own.b_enc, self.own.W_dec]

    def encode(
        self, x: Float[Tensor, "n d_model"]
    ) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n width"]]:
        """The trained latents, with gradients, and the frozen ones (0 where trained), without."""
        if self.kind != "topk":
            with torch.no_grad():
                rest = self.rest.encode(x)
            return self.own.encode(x), rest
        own = self.own.preactivations(x)
        with torch.no_grad():
            rest = self.rest.preactivations(x)
            every = rest.index_copy(1, self.chosen.latents, own)
            winners = every.topk(self.rest.config.k, dim=-1).indices
            wins = torch.zeros_like(every, dtype=torch.bool).scatter_(1, winners, True)
            rest = torch.where(wins, rest.relu(), 0)
        return own.relu() * wins[:, self.chosen.latents], rest

    def keep_lengths(self) -> None:
        """Puts the decoder's rows back to the length they came with."""
        with torch.no_grad():
            rows = self.own.W_dec
            rows.mul_(self._lengths / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))

    def weights(self) -> list[Tensor]:
        """A copy of what is trained, as it is now."""
        return [value.detach().clone() for value in self.parameters]

    def put_into(self, sae: Sae, weights: list[Tensor]) -> Sae:
        """A copy of the coder with these weights in the trained latents' places."""
        found = copy.deepcopy(sae)
        encoder, bias, decoder = weights
        with torch.no_grad():
            found.W_enc[self.chosen.latents] = encoder
            found.b_enc[self.chosen.latents] = bias * self.unit
            found.W_dec[self.chosen.latents] = decoder
        return found


def in_units(sae: Sae, unit: float) -> Sae:
    """The same coder for activations that are given in units of this length: f(x / u) = f(x) / u."""
    found = copy.deepcopy(sae).requires_grad_(False)
    for name in ("b_enc", "b_dec", "center", "threshold"):
        getattr(found, name).div_(unit)
    return found
