import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.scenarios.split import by_action, by_position, leak

texts = st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=60)


def test_the_position_split_is_the_published_recipe() -> None:
    n = 16_011
    positions = list(range(n))
    np.random.RandomState(42).shuffle(positions)
    split = by_position(n, (0.8, 0.1), 42)
    train, validation = int(0.8 * n), int(0.1 * n)
    assert sorted(positions[:train]) == np.flatnonzero(split == 0).tolist()
    assert sorted(positions[train : train + validation]) == np.flatnonzero(split == 1).tolist()
    assert sorted(positions[train + validation :]) == np.flatnonzero(split == 2).tolist()


@pytest.mark.parametrize(
    ("n", "fractions", "sizes"),
    [
        (10, (0.5, 0.25), [5, 2, 3]),
        (1, (0.8, 0.1), [0, 0, 1]),
        (7, (1.0, 0.0), [7, 0, 0]),
        (0, (0.8, 0.1), [0, 0, 0]),
    ],
)
def test_fractions_are_rounded_down_and_the_rest_is_for_testing(
    n: int, fractions: tuple[float, float], sizes: list[int]
) -> None:
    assert np.bincount(by_position(n, fractions, 42), minlength=3).tolist() == sizes


@given(texts, st.integers(0, 5))
def test_the_action_split_never_has_a_text_on_two_sides(actions: list[str], seed: int) -> None:
    series = pl.Series(actions, dtype=pl.String)
    split = by_action(series, (0.5, 0.25), seed)
    sides = {(text, side) for text, side in zip(actions, split.tolist(), strict=True)}
    assert len(sides) == len(set(actions))
    assert leak(series, split) == {"validation": 0, "test": 0}


@given(texts, st.integers(0, 5))
def test_a_side_of_the_action_split_is_at_most_one_text_too_long_or_too_short(
    actions: list[str], seed: int
) -> None:
    split = by_action(pl.Series(actions), (0.5, 0.25), seed)
    longest = max(actions.count(text) for text in actions)
    wanted = [int(0.5 * len(actions)), int(0.25 * len(actions))]
    for side, want in enumerate(wanted):
        assert abs(int((split == side).sum()) - want) < longest


def test_the_action_split_depends_on_the_seed_and_on_nothing_else(
    dev_scenarios: pl.DataFrame,
) -> None:
    actions = dev_scenarios["action"]
    one, same, other = (by_action(actions, (0.8, 0.1), seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
    shuffled = np.random.default_rng(0).permutation(len(actions))
    assert (by_action(actions[shuffled], (0.8, 0.1), 1) == one[shuffled]).all()


def test_the_leak_counts_rows_that_repeat_a_training_text_exactly() -> None:
    actions = pl.Series(["lying", "lying", "lying.", "lying", "sharing", "sharing"])
    split = np.array([0, 1, 1, 2, 2, 2])
    assert leak(actions, split) == {"validation": 1, "test": 1}
