import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.metrics.intervals import wilson
from trimtab.metrics.winrate import CHOICES, Choice, by_score, win_rate

OUTCOMES = st.lists(st.sampled_from(CHOICES), max_size=40)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_failures_are_in_no_rate() -> None:
    found = win_rate(["win"] * 6 + ["tie"] * 2 + ["lose"] * 2 + ["failed"] * 90, rng())
    assert (found.wins, found.ties, found.losses, found.failed) == (6, 2, 2, 90)
    assert found.rate == 0.6
    assert found.wilson == wilson(6, 10)
    assert found.sign_p == pytest.approx(0.2890625)  # 2 (1 + 8 + 28) / 2^8


@given(OUTCOMES)
def test_counts_add_up_and_the_rate_lies_within_its_intervals(outcomes: list[Choice]) -> None:
    found = win_rate(outcomes, rng(), num_draws=50)
    assert found.judged + found.failed == len(outcomes)
    if found.judged == 0:
        assert math.isnan(found.rate)
        assert math.isnan(found.bootstrap.low)
        return
    assert 0.0 <= found.wilson.low <= found.rate <= found.wilson.high <= 1.0
    assert 0.0 <= found.bootstrap.low <= found.bootstrap.high <= 1.0


@given(OUTCOMES, st.randoms(use_true_random=False))
def test_the_order_of_prompts_does_not_matter(outcomes: list[Choice], shuffle) -> None:  # noqa: ANN001
    mixed = list(outcomes)
    shuffle.shuffle(mixed)
    one, other = win_rate(outcomes, rng(), num_draws=5), win_rate(mixed, rng(), num_draws=5)
    assert one[:4] == other[:4]
    assert one.wilson == pytest.approx(other.wilson, nan_ok=True)
    assert one.sign_p == other.sign_p


def test_all_wins_have_no_spread() -> None:
    found = win_rate(["win"] * 20, rng())
    assert found.rate == 1.0
    assert found.bootstrap == (1.0, 1.0)
    assert found.wilson.low < 1.0  # twenty wins do not prove that there are only wins


def test_two_scores_are_compared_by_their_gap() -> None:
    assert by_score(3.0, 2.0) == "win"
    assert by_score(2.0, 3.0) == "lose"
    assert by_score(2.0, 2.0) == "tie"
    assert by_score(2.4, 2.0, margin=0.5) == "tie"
    assert by_score(None, 2.0) == by_score(2.0, None) == "failed"
