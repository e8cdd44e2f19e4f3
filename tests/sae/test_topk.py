"""Gradients from active latents alone, against autograd through dense matrices."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trimtab.sae.coder import Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.selection import largest
from trimtab.sae.topk import Dead, Workspace, preactivations, topk_step

Configure = Callable[..., TrainConfig]
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
N = 40


def batch(dtype: torch.dtype, n: int = N, d_model: int = 12) -> Tensor:
    return torch.randn(n, d_model, generator=torch.Generator().manual_seed(1), dtype=dtype)


def kept(pre: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, pre, 0).relu()


def top_mask(pre: Tensor, k: int, *, batch_wide: bool) -> Tensor:
    flat = pre.reshape(1, -1) if batch_wide else pre
    num = k * len(pre) if batch_wide else k
    mask = torch.zeros_like(flat, dtype=torch.bool)
    return mask.scatter_(1, flat.topk(num, dim=1).indices, value=True).view_as(pre)


def reference(
    sae: Sae, x: Tensor, dead: Dead | None = None, *, project: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients by autograd, through every latent."""
    weights = {name: getattr(sae, name).detach().clone().requires_grad_() for name in NAMES}
    W_enc, b_enc, W_dec, b_dec = weights.values()
    pre = x @ W_enc.T + b_enc
    mask = top_mask(pre, sae.config.k, batch_wide=sae.config.kind == "batchtopk")
    found = kept(pre, mask) @ W_dec + b_dec
    loss = (found - x).square().mean()
    if dead is not None:
        among = torch.full_like(pre, -torch.inf)
        among[:, dead.latents] = pre.detach()[:, dead.latents]
        mask = top_mask(among, min(dead.num, len(dead.latents)), batch_wide=False)
        revived = kept(pre, mask) @ W_dec
        loss = loss + dead.coefficient * (revived - (x - found).detach()).square().mean()
    loss.backward()
    grads = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    if project:
        along = (grads["W_dec"] * W_dec).sum(1, keepdim=True)
        grads["W_dec"] = (grads["W_dec"] - along * W_dec).detach()
    return loss.detach(), grads


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("aux", [True, False])
def test_gradients_are_those_of_dense_autograd(
    config: Configure,
    random_sae: Callable[..., Sae],
    kind: str,
    dtype: torch.dtype,
    limit: float,
    project: bool,
    aux: bool,
) -> None:
    settings = config(kind, project_gradient=project)
    sae, x = random_sae(settings, dtype), batch(dtype)
    dead = Dead(torch.tensor([1, 4, 5, 30, 31]), 3, 0.5) if aux else None
    terms = topk_step(x, sae, settings, Workspace(), dead)
    loss, grads = reference(sae, x, dead, project=project)
    assert relative(terms.loss, loss) < limit
    for name in NAMES:
        assert relative(getattr(sae, name).grad, grads[name]) < limit, name


def test_terms_are_those_of_the_dense_latents(
    config: Configure, random_sae: Callable[..., Sae]
) -> None:
    settings = config("topk", k=12)
    sae, x = random_sae(settings), batch(torch.float64)
    sae.b_enc.data -= 2.0
    terms = topk_step(x, sae, settings, Workspace(), None)
    sae.center.zero_()
    z = sae.encode(x)
    assert (z > 0).sum() < N * 12
    torch.testing.assert_close(terms.fired, (z > 0).sum(0).double())
    torch.testing.assert_close(terms.l0, (z > 0).double().sum(1).mean())
    torch.testing.assert_close(terms.l1, z.sum(1).mean())
    torch.testing.assert_close(terms.mse, (sae(x) - x).square().mean())
    torch.testing.assert_close(terms.least, z[z > 0].min())


def test_candidates_found_in_bfloat16_have_values_and_gradients_in_float32(
    config: Configure, random_sae: Callable[..., Sae]
) -> None:
    settings = config("topk", selection="bfloat16", project_gradient=False)
    sae, x = random_sae(settings, torch.float32), batch(torch.float32)
    work = Workspace()
    terms = topk_step(x, sae, settings, work, None)
    low = preactivations(x, sae, settings, work)
    assert low.dtype == torch.bfloat16
    mask = torch.zeros_like(low, dtype=torch.bool)
    mask.scatter_(1, largest(low, settings.coder.k), value=True)
    z = kept(x @ sae.W_enc.T + sae.b_enc, mask)
    loss = ((z @ sae.W_dec + sae.b_dec) - x).square().mean()
    (expected,) = torch.autograd.grad(loss, [sae.W_enc])
    assert relative(terms.mse, loss.detach()) < 1e-6
    assert relative(sae.W_enc.grad, expected) < 1e-6


def test_a_batch_in_which_nothing_is_active_has_a_gradient_in_the_bias_alone(
    config: Configure, random_sae: Callable[..., Sae]
) -> None:
    settings = config("topk")
    sae = random_sae(settings)
    sae.b_enc.data.fill_(-1e3)
    terms = topk_step(batch(torch.float64), sae, settings, Workspace(), None)
    assert float(terms.l0) == 0.0
    assert not sae.W_enc.grad.any()
    assert not sae.W_dec.grad.any()
    assert sae.b_dec.grad.any()


def test_a_projected_gradient_is_at_right_angles_to_every_decoder_row(
    config: Configure, random_sae: Callable[..., Sae]
) -> None:
    settings = config("batchtopk")
    sae = random_sae(settings)
    topk_step(batch(torch.float64), sae, settings, Workspace(), None)
    assert sae.W_dec.grad is not None
    along = (sae.W_dec.grad * sae.W_dec.detach()).sum(1)
    assert float(along.abs().max()) < 1e-15
    assert sae.W_dec.grad.any()


def test_the_same_batch_gives_the_same_bits_and_buffers_are_kept(
    config: Configure, random_sae: Callable[..., Sae]
) -> None:
    settings = config("topk")
    x, work = batch(torch.float32), Workspace()
    grads = []
    for _ in range(2):
        sae = random_sae(settings, torch.float32)
        topk_step(x, sae, settings, work, None)
        grads.append(sae.W_dec.grad.clone())
    assert torch.equal(*grads)
    sae = random_sae(settings, torch.float32)
    first = preactivations(x, sae, settings, work).data_ptr()
    assert preactivations(x, sae, settings, work).data_ptr() == first
    assert preactivations(x[:3], sae, settings, work).shape == (3, 32)
