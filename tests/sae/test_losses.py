"""The losses of relu and jumprelu, and the straight-through gradients of the thresholds."""

import torch
from torch import Tensor

from trimtab.sae.losses import JumpRelu, Step, dense_terms


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_relus_loss_is_the_mean_squared_error_and_lambda_times_the_mean_activation() -> None:
    x, found = torch.zeros(2, 3), torch.full((2, 3), 2.0)
    z = torch.tensor([[0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 4.0]])
    terms = dense_terms(x, z, None, found, 0.5)
    assert float(terms.mse) == 4.0
    assert float(terms.loss) == 4.0 + 0.5 * 1.0
    assert float(terms.l0) == 1.5
    assert float(terms.l1) == 4.0
    assert terms.fired.tolist() == [0, 1, 0, 2]


def test_jumprelus_loss_counts_active_latents_of_a_row() -> None:
    x = torch.zeros(2, 3)
    z = torch.tensor([[0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 4.0]])
    assert float(dense_terms(x, z, (z > 0).float(), x, 0.5).loss) == 0.5 * 1.5


def test_a_gate_passes_what_is_above_its_threshold() -> None:
    pre = torch.tensor([[0.5, 0.5, -1.0]])
    assert JumpRelu.apply(pre, torch.tensor([0.4, 0.6, 0.1]), 0.1).tolist() == [[0.5, 0.0, 0.0]]
    assert Step.apply(pre, torch.tensor([0.4, 0.6, 0.1]), 0.1).tolist() == [[1.0, 0.0, 0.0]]


def test_gradients_of_the_thresholds_are_the_papers() -> None:
    # Columns: well below, in the window below, in the window above, well above.
    pre = double(0.0, 0.96, 1.04, 2.0).view(1, 4).repeat(2, 1).requires_grad_()
    threshold = double(1.0, 1.0, 1.0, 1.0).requires_grad_()
    upstream = double(1.0, 2.0, 3.0, 4.0)
    (JumpRelu.apply(pre, threshold, 0.1) * upstream).sum().backward()
    assert torch.equal(pre.grad, double(0, 0, 3, 4).repeat(2, 1))
    torch.testing.assert_close(threshold.grad, 2 * double(0, -2 / 0.1, -3 / 0.1, 0))

    pre.grad, threshold.grad = None, None
    (Step.apply(pre, threshold, 0.1) * upstream).sum().backward()
    assert pre.grad is None
    torch.testing.assert_close(threshold.grad, 2 * double(0, -2 / 0.1, -3 / 0.1, 0))


def test_a_thresholds_gradient_estimates_the_slope_of_the_expected_count() -> None:
    """Over uniform pre-activations the expected count falls by the density as the threshold rises."""
    generator = torch.Generator().manual_seed(0)
    pre = torch.rand(200_000, 1, generator=generator, dtype=torch.float64) * 2
    threshold = double(0.7).requires_grad_()
    Step.apply(pre, threshold, 0.2).mean().backward()
    torch.testing.assert_close(threshold.grad, double(-0.5), rtol=0.02, atol=0.0)
