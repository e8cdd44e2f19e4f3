"""The learning rate, lambda and the stop rule, in closed form."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.sae.coder import CoderConfig
from trimtab.sae.config import StopRule, TrainConfig
from trimtab.sae.schedule import good_epoch, learning_rate, next_lambda


def recipe(**fields: float) -> TrainConfig:
    plain = {"epochs": 10.0, "warmup_epochs": 2.0, "learning_rate": 1.0, "final_share": 0.1}
    return TrainConfig.model_validate({"coder": CoderConfig(width=8, k=2), **plain, **fields})


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0.0, 0.0), (0.5, 0.25), (2.0, 1.0), (6.0, 0.55), (10.0, 0.1), (11.0, 0.1)]
)
def test_the_rate_rises_linearly_and_falls_by_a_cosine_to_its_final_share(
    epoch: float, rate: float
) -> None:
    assert learning_rate(recipe(), epoch) == pytest.approx(rate, abs=1e-12)


def test_a_rate_without_warmup_starts_at_its_peak() -> None:
    assert learning_rate(recipe(warmup_epochs=0.0), 0.0) == 1.0


def test_a_rate_that_warms_up_to_the_end_reaches_its_peak() -> None:
    assert learning_rate(recipe(warmup_epochs=10.0), 9.999999) == pytest.approx(1.0, abs=1e-6)


@given(a=st.floats(2, 10), b=st.floats(2, 10))
def test_after_the_warmup_the_rate_never_rises(a: float, b: float) -> None:
    early, late = sorted((a, b))
    assert learning_rate(recipe(), early) >= learning_rate(recipe(), late) - 1e-12


@pytest.mark.parametrize(
    ("l0", "factor"),
    [
        (250.0, 1.2),
        (200.0, 1.05),
        (111.0, 1.05),
        (110.0, 1.0),
        (100.0, 1.0),
        (90.0, 1.0),
        (89.0, 0.95),
        (0.0, 0.95),
    ],
)
def test_lambda_moves_by_the_ratio_to_the_target(l0: float, factor: float) -> None:
    assert next_lambda(0.01, l0, 100.0) == pytest.approx(0.01 * factor, rel=1e-15)


def test_lambda_stays_within_its_limits() -> None:
    assert next_lambda(99.0, 1e9, 1.0) == 100.0
    assert next_lambda(1.01e-6, 0.0, 1.0) == 1e-6


@pytest.mark.parametrize(
    ("mse", "l0", "good"),
    [(0.09, 100.0, True), (0.1, 100.0, False), (0.09, 110.0, True), (0.09, 110.1, False)],
)
def test_an_epoch_is_good_when_error_and_l0_are_both_where_they_should_be(
    mse: float, l0: float, good: bool
) -> None:
    assert good_epoch(StopRule(mse=0.1), 100.0, mse, l0) is good


def test_no_l0_that_is_not_a_number_is_good() -> None:
    assert not good_epoch(StopRule(mse=0.1), 100.0, math.nan, math.nan)
