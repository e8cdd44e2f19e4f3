import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.metrics.optimiser import WEIGHT_DECAY, AdamW, Plateau


def test_steps_are_those_of_torchs_adamw() -> None:
    draw = np.random.default_rng(0)
    start, gradients = draw.normal(size=(4, 3)), draw.normal(size=(30, 4, 3))
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimiser = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=WEIGHT_DECAY)
    ours = AdamW.at(start)
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        optimiser.step()
        ours = ours.step(gradient, 1e-2)
    np.testing.assert_allclose(ours.parameters, theirs.detach().numpy(), rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(losses=st.lists(st.sampled_from([1.0, 0.99995, 0.9, 0.5, 2.0]), max_size=40))
def test_the_learning_rate_falls_where_torchs_does(losses: list[float]) -> None:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=5)
    ours = Plateau(1e-3)
    for loss in losses:
        theirs.step(loss)
        ours = ours.after(loss)
        assert ours.learning_rate == optimiser.param_groups[0]["lr"]


def test_a_step_leaves_the_state_before_it_as_it_was() -> None:
    before = AdamW.at(np.ones(3))
    before.step(np.ones(3), 0.1)
    np.testing.assert_array_equal(before.parameters, np.ones(3))
    np.testing.assert_array_equal(before.mean, np.zeros(3))
