"""The losses of the kinds that are trained with a penalty, and jumprelu's straight-through step.

    relu        mean (x' - x)^2 + lambda mean |z|                over rows and latents
    jumprelu    mean (x' - x)^2 + lambda mean_n L0(z_n)          over rows

Means over x are over rows and elements. jumprelu's two steps (the gate and the count) have no
gradient of their own in the threshold; a rectangle of the bandwidth's width around it stands in.

Rajamanoharan et al. 2024, arXiv 2407.14435, equations 9 to 12 (jumprelu); Li, Teng and Wang 2026,
arXiv 2603.15615 (relu).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Terms(NamedTuple):
    """What one batch says of a coder, each a number on the device but the last."""

    loss: Float[Tensor, ""]
    """What is minimised."""
    mse: Float[Tensor, ""]
    """Mean squared error over rows and elements."""
    l0: Float[Tensor, ""]
    """Active latents of a row, on average."""
    l1: Float[Tensor, ""]
    """Sum of a row's activations, on average."""
    aux: Float[Tensor, ""]
    """Share of the residual's energy that dead latents leave; 0 where there are none."""
    fired: Float[Tensor, " width"]
    """For each latent, how many rows it was active on."""
    least: Float[Tensor, ""]
    """Smallest activation of the batch; of the kinds without k, 0."""


class JumpRelu(torch.autograd.Function):
    """p where p > threshold, else 0."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own context
        pre: Float[Tensor, "n width"],
        threshold: Float[Tensor, " width"],
        bandwidth: float,
    ) -> Float[Tensor, "n width"]:
        """The gate itself."""
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        """Exact in p; -threshold / bandwidth inside the window in the threshold."""
        pre, threshold = ctx.saved_tensors
        (grad,) = grads
        near = _window(pre, threshold, ctx.bandwidth)
        return (
            grad * (pre > threshold),
            -(grad * near).sum(0) * threshold / ctx.bandwidth,
            None,
        )


class Step(torch.autograd.Function):
    """1 where p > threshold, else 0."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        pre: Float[Tensor, "n width"],
        threshold: Float[Tensor, " width"],
        bandwidth: float,
    ) -> Float[Tensor, "n width"]:
        """The indicator itself."""
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:  # noqa: ANN401
        """None in p; -1 / bandwidth inside the window in the threshold."""
        pre, threshold = ctx.saved_tensors
        (grad,) = grads
        near = _window(pre, threshold, ctx.bandwidth)
        return None, -(grad * near).sum(0) / ctx.bandwidth, None


def _window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (pre - threshold).abs() < bandwidth / 2


def dense_terms(
    x: Float[Tensor, "n d_model"],
    z: Float[Tensor, "n width"],
    gates: Float[Tensor, "n width"] | None,
    found: Float[Tensor, "n d_model"],
    penalty: float,
) -> Terms:
    """The terms of a batch.

    Args:
        x: what is reconstructed.
        z: activations.
        gates: jumprelu's indicators, by `Step`; None is relu.
        found: the reconstruction.
        penalty: lambda.
    """
    mse = (found - x).square().mean()
    cost = z.mean() if gates is None else gates.sum(1).mean()
    z = z.detach()
    fired = (z > 0).sum(0).to(x.dtype)
    l1 = z.sum() / len(z)
    none = torch.zeros_like(l1)
    return Terms(mse + penalty * cost, mse.detach(), fired.sum() / len(z), l1, none, fired, none)
