"""A sparse autoencoder of one layer, as it is used: latents in, reconstruction out.

    z  = activation(W_enc (x - c) + b_enc)        x' = z W_dec + b_dec + c

Encoder and decoder are untied; row i of either matrix belongs to latent i, and the decoder's rows
have length 1. The centre c is the layer's training mean, which the study subtracts from its input.
The four kinds differ in `activation` alone:

    relu        max(0, p)
    topk        the k largest of a row, where they are positive
    batchtopk   in use p where p > threshold (a scalar found in training), so that a row's latents
                do not depend on what shares its batch
    jumprelu    p where p > threshold, one threshold a latent

How a coder comes about is not here (`trimtab.sae.training`). `forward` holds all latents of a
batch: 2,048 rows x 65,536 latents in float32 are 537 MB; `active` holds k of them a row.

Li, Teng and Wang 2026, arXiv 2603.15615 (relu); Gao et al. 2024, arXiv 2406.04093 (topk);
Bussmann et al. 2024, arXiv 2412.06410 (batchtopk); Rajamanoharan et al. 2024, arXiv 2407.14435
(jumprelu).
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from trimtab.core.config import Config

Kind = Literal["relu", "topk", "batchtopk", "jumprelu"]


class CoderConfig(Config):
    """What decides a coder's function, apart from its weights."""

    kind: Kind = "topk"
    """The activation."""
    width: PositiveInt
    """Latents of the dictionary (dictionary width, `d_sae`)."""
    k: PositiveInt = 32
    """Active latents of a row for `topk`, on average for `batchtopk`; the others ignore it."""

    @model_validator(mode="after")
    def _k_fits(self) -> "CoderConfig":
        if self.kind in ("topk", "batchtopk") and self.k > self.width:
            raise ValueError(f"`k <= width` must hold, but got k={self.k}, width={self.width}")
        return self


class Active(NamedTuple):
    """The active latents of n rows, k places each."""

    values: Float[Tensor, "n k"]
    """Activations; 0 where a row has fewer than k."""
    latents: Int[Tensor, "n k"]
    """Which latents they are of."""


class Sae(nn.Module):
    """A sparse autoencoder of one layer."""

    center: Tensor
    threshold: Tensor

    def __init__(self, config: CoderConfig, d_model: int) -> None:
        """All weights are zero: `trimtab.sae.training` starts them, a format reads them."""
        super().__init__()
        self.config = config
        self.W_enc = nn.Parameter(torch.zeros(config.width, d_model))
        """[width, d_model]."""
        self.b_enc = nn.Parameter(torch.zeros(config.width))
        """[width]."""
        self.W_dec = nn.Parameter(torch.zeros(config.width, d_model))
        """[width, d_model], rows of length 1."""
        self.b_dec = nn.Parameter(torch.zeros(d_model))
        """[d_model]."""
        self.register_buffer("center", torch.zeros(d_model))
        self.register_buffer("threshold", torch.zeros(config.width))

    @property
    def width(self) -> int:
        """Latents of the dictionary."""
        return self.config.width

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.b_dec.shape[0]

    def preactivations(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n width"]:
        """What the activation is applied to; `x` is raw, the centre is subtracted here."""
        return nn.functional.linear(x - self.center, self.W_enc, self.b_enc)

    def encode(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n width"]:
        """Every latent's activation, 0 where it is silent."""
        pre = self.preactivations(x)
        match self.config.kind:
            case "relu":
                return pre.relu()
            case "topk":
                values, index = pre.topk(self.config.k, dim=-1)
                return torch.zeros_like(pre).scatter_(-1, index, values.relu())
            case _:
                return torch.where(pre > self.threshold, pre, 0).relu()

    def active(self, x: Float[Tensor, "n d_model"]) -> Active:
        """The active latents of a `topk` coder without its silent ones."""
        assert self.config.kind == "topk", "only topk has a fixed number of active latents"
        values, latents = self.preactivations(x).topk(self.config.k, dim=-1, sorted=False)
        return Active(values.relu(), latents)

    def decode(self, latents: Float[Tensor, "*n width"]) -> Float[Tensor, "*n d_model"]:
        """The reconstruction, with the centre added back."""
        return latents @ self.W_dec + (self.b_dec + self.center)

    def forward(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """SAE(x - c) + c for raw activations x."""
        if self.config.kind != "topk":
            return self.decode(self.encode(x))
        values, latents = self.active(x.reshape(-1, self.d_model))
        found = nn.functional.embedding_bag(
            latents, self.W_dec, per_sample_weights=values.to(self.W_dec.dtype), mode="sum"
        )
        return (found + (self.b_dec + self.center)).reshape(x.shape)
