"""One batch of a top-k coder: its terms and all of its gradients, from the active latents alone.

With e = x' - x, the gradients of mean e^2 are, for the active entries (row n, latent m, value v),

    g_n = 2 e_n / (rows x d_model)          dv = g_n . W_dec_m where v > 0
    dW_dec = collect(v, g)     dW_enc = collect(dv, x)     db_dec = sum g_n     db_enc_m = sum dv

and the part of a row of dW_dec that is parallel to the row of W_dec has the length sum v dv: no
pass over the matrix is needed to find it. AuxK adds the same for the dead latents' entries, with
the residual as their target. Which latents are active is a choice and has no gradient.

Dense are only the encoder's product and the search for its largest values. What they write,
[rows, width], goes to memory that is kept from batch to batch: fresh memory of that size costs
more than the product itself.

Gao et al. 2024, arXiv 2406.04093, sections 2.3 and A.2 (top-k, AuxK); Bussmann et al. 2024,
arXiv 2412.06410 (batch-wide selection).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.sae.coder import Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.losses import Terms
from trimtab.sae.selection import entries_of, largest
from trimtab.sae.sparse import Entries, by_latent, collect, decode, fixed_entries, products, sums


class Workspace:
    """Large buffers, kept from batch to batch."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype) -> Tensor:
        """The buffer of this name, made anew when another shape or dtype is asked for."""
        held = self._buffers.get(name)
        if held is None or held.shape != shape or held.dtype != dtype:
            held = like.new_empty(shape, dtype=dtype)
            self._buffers[name] = held
        return held


class Dead(NamedTuple):
    """What AuxK works with."""

    latents: Int[Tensor, " dead"]
    """The dead latents; at least one."""
    num: int
    """How many of them reconstruct a row's residual."""
    coefficient: float
    """Factor of their error."""


class Chosen(NamedTuple):
    """The active entries of a batch with their values."""

    entries: Entries
    """Where they are."""
    values: Float[Tensor, " e"]
    """Activations, 0 where a pre-activation is negative."""


@torch.no_grad()
def topk_step(
    x: Float[Tensor, "n d_model"],
    sae: Sae,
    config: TrainConfig,
    work: Workspace,
    dead: Dead | None,
) -> Terms:
    """Writes the gradients of one batch to the weights' `.grad`, and says what the batch showed.

    Args:
        x: centred and scaled rows.
        sae: its centre is not looked at.
        config: k, precision, selection, projection.
        work: buffers.
        dead: what AuxK revives; None leaves it out.
    """
    pre = preactivations(x, sae, config, work)
    batch_wide = sae.config.kind == "batchtopk"
    entries = entries_of(pre, sae.config.k, batch_wide=batch_wide)
    chosen = Chosen(entries, _values(x, pre, entries, sae, config).relu_())
    error = decode(chosen.values, entries, sae.W_dec).add_(sae.b_dec).sub_(x)
    mse = error.square().mean()
    sae.b_dec.grad = error.sum(0).mul_(2 / error.numel())
    fired, l1 = _backward(x, error, chosen, sae, project=config.project_gradient, add=False)
    loss, aux = mse, torch.zeros_like(mse)
    if dead is not None:
        revived = _dead_entries(x, pre, dead, sae, config)
        residual = decode(revived.values, revived.entries, sae.W_dec).add_(error)
        left = residual.square().mean()
        residual.mul_(dead.coefficient)
        _backward(x, residual, revived, sae, project=config.project_gradient, add=True)
        loss, aux = mse + dead.coefficient * left, left / mse.clamp_min(1e-30)
    n, silent = len(x), chosen.values <= 0
    least = chosen.values.masked_fill(silent, torch.inf).min()
    return Terms(loss, mse, fired.sum() / n, l1 / n, aux, fired, least)


@torch.no_grad()
def preactivations(
    x: Float[Tensor, "n d_model"], sae: Sae, config: TrainConfig, work: Workspace
) -> Float[Tensor, "n width"]:
    """All pre-activations, in bfloat16 where precision or selection say so; the caller's memory."""
    low = "bfloat16" in (config.precision, config.selection)
    dtype = torch.bfloat16 if low else x.dtype
    W, bias = sae.W_enc, sae.b_enc
    if low:
        W = work.get("W_enc", W, *W.shape, dtype=dtype).copy_(W)
        x, bias = x.to(dtype), bias.to(dtype)
    pre = work.get("pre", x, len(x), len(W), dtype=dtype)
    return torch.addmm(bias, x, W.t(), out=pre)


def _values(x: Tensor, pre: Tensor, entries: Entries, sae: Sae, config: TrainConfig) -> Tensor:
    """The pre-activations of the entries, in the dtype of x."""
    if config.precision == "float32" and config.selection == "bfloat16":
        return products(x, sae.W_enc, entries).add_(sae.b_enc[entries.latents])
    return pre[entries.rows, entries.latents].to(x.dtype)


def _dead_entries(x: Tensor, pre: Tensor, dead: Dead, sae: Sae, config: TrainConfig) -> Chosen:
    """Each row's largest pre-activations among the dead latents."""
    found = largest(pre[:, dead.latents], min(dead.num, len(dead.latents)))
    entries = fixed_entries(dead.latents[found])
    return Chosen(entries, _values(x, pre, entries, sae, config).relu_())


def _backward(
    x: Tensor, error: Tensor, chosen: Chosen, sae: Sae, *, project: bool, add: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of mean error^2 but that of b_dec; returns latents' counts and the values' sum."""
    entries, values = chosen
    order = by_latent(entries, sae.width)
    toward = error * (2 / error.numel())
    slope = products(toward, sae.W_dec, entries).mul_(values > 0)
    columns = torch.stack([slope, slope * values, (values > 0).to(values.dtype)], dim=1)
    bias, parallel, fired = sums(columns, order).unbind(1)
    grads = [weight.grad for weight in (sae.W_dec, sae.W_enc, sae.b_enc)]
    W_dec, W_enc, b_enc = (grad for grad in grads if grad is not None)
    collect(values, order, toward, W_dec, add=add)
    collect(slope, order, x, W_enc, add=add)
    b_enc.copy_(bias + b_enc if add else bias)
    if project:
        W_dec.addcmul_(parallel.unsqueeze(1), sae.W_dec, value=-1)
    return fired, values.sum()
