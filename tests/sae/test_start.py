"""The centre, the scale and the first weights."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimtab.core.errors import CoderError, TrainingError
from trimtab.core.seeds import Seed
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.start import fresh, moments, scale_of, unit_rows
from trimtab.sae.start import given as given_coder

Configure = Callable[..., TrainConfig]


@given(cuts=st.lists(st.integers(1, 49), unique=True, max_size=6), seed=st.integers(0, 100))
def test_moments_are_those_of_all_rows_however_they_are_cut(cuts: list[int], seed: int) -> None:
    x = np.random.default_rng(seed).normal(1e4, 1, (50, 3))
    parts = [torch.from_numpy(part) for part in np.split(x, sorted(cuts))]
    mean, variance = moments(parts, 0)
    np.testing.assert_allclose(mean.numpy(), x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(variance, x.var(0).mean(), rtol=1e-9)


def test_rows_that_do_not_vary_are_divided_by_one() -> None:
    mean, variance = moments([torch.full((4, 2), 3.0)], 0)
    assert mean.tolist() == [3.0, 3.0]
    assert scale_of(variance) == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_numbers_are_named_before_training(bad: float) -> None:
    x = torch.zeros(4, 2)
    x[2, 1] = bad
    with pytest.raises(TrainingError, match=r"layer 7 has NaN or infinite ones among its 4"):
        moments([x], 7)


def test_no_rows_are_refused() -> None:
    with pytest.raises(TrainingError, match="needs rows, but layer 2 has none"):
        moments([], 2)


def test_decoder_rows_start_at_length_one_and_biases_at_zero(config: Configure) -> None:
    for tied in (True, False):
        sae = fresh(config(width=64, tied_start=tied), 16, Seed(1))
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
        assert not sae.b_enc.any()
        assert not sae.b_dec.any()
        assert torch.equal(sae.W_enc, sae.W_dec) is tied


def test_the_untied_encoder_is_uniform_within_hes_bound(config: Configure) -> None:
    sae = fresh(config(width=512, tied_start=False), 24, Seed(1)).requires_grad_(False)
    bound = (6 / 24) ** 0.5
    assert 0.98 * bound < float(sae.W_enc.abs().max()) <= bound
    torch.testing.assert_close(float(sae.W_enc.std()), bound / 3**0.5, rtol=0.02, atol=0.0)


def test_a_start_is_a_function_of_its_seed_and_leaves_the_global_state_alone(
    config: Configure,
) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (fresh(config(), 8, Seed(s)).W_dec for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_jumprelu_starts_with_positive_thresholds(config: Configure) -> None:
    assert bool((fresh(config("jumprelu"), 8, Seed(0)).threshold > 0).all())


def test_a_coder_to_go_on_from_is_the_same_function_of_scaled_rows(
    config: Configure, random_sae: Callable[..., Sae]
) -> None:
    settings = config("jumprelu")
    start = random_sae(settings, torch.float32)
    before = start.b_enc.clone()
    scaled = given_coder(start, settings, 4.0)
    x: Tensor = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
    expected = start(x + start.center)
    scaled.center.zero_()
    torch.testing.assert_close(scaled(x / 4) * 4 + start.center, expected)
    assert torch.equal(start.b_enc, before)


def test_a_coder_of_another_shape_is_no_start(config: Configure) -> None:
    with pytest.raises(CoderError, match=r"must be a .*width=32.* but is a .*width=16"):
        given_coder(Sae(CoderConfig(width=16, k=4), 12), config(), 1.0)


def test_a_row_of_zeros_stays_zero_and_finite() -> None:
    W = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    unit_rows(W)
    torch.testing.assert_close(W, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
