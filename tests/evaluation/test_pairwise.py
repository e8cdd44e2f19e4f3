import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.evaluation.judges.build import make_judge
from trimtab.evaluation.judges.rubric import Rubric, load_rubric
from trimtab.evaluation.judges.rule import RuleJudgeConfig
from trimtab.evaluation.judges.verdict import Case, Verdict, failure
from trimtab.evaluation.pairwise import Match, PairwiseConfig, compare, position_bias
from trimtab.metrics.winrate import win_rate

PAIR = load_rubric("pairwise")
BOTH, ONCE = PairwiseConfig(), PairwiseConfig(both_orders=False)
RELEASED = PairwiseConfig(as_released=True)
Says = Callable[[str, str], float | None]


class Fake:
    """A judge that says what a function of the two answers says; None is a failure."""

    def __init__(self, says: Says) -> None:
        self.says = says
        self.cases: list[Case] = []

    def identity(self) -> dict[str, str]:
        return {"kind": "fake"}

    def judge(self, rubric: Rubric, cases: Sequence[Case]) -> list[Verdict]:
        self.cases += cases
        values = [self.says(*case.answers) for case in cases]
        return [failure("no idea") if v is None else Verdict(v, "", "") for v in values]


def by_length(first: str, second: str) -> float:
    return float((len(first) > len(second)) - (len(first) < len(second)))


def always_first(first: str, second: str) -> float:
    return 1.0


def choices(says: Says, config: PairwiseConfig, *answers: tuple[str, str]) -> list[str]:
    matches = [Match("?", candidate, baseline) for candidate, baseline in answers]
    return [outcome.choice for outcome in compare(Fake(says), PAIR, matches, config)]


ANSWERS = (("long", "a"), ("a", "long"), ("same", "also"))


@pytest.mark.parametrize("config", [BOTH, ONCE, RELEASED])
def test_a_fair_judge_gives_the_same_outcomes_in_every_mode(config: PairwiseConfig) -> None:
    assert choices(by_length, config, *ANSWERS) == ["win", "lose", "tie"]


def test_a_judge_that_picks_the_first_ties_in_both_orders_and_loses_everything_as_released() -> (
    None
):
    assert choices(always_first, BOTH, *ANSWERS) == ["tie"] * 3
    assert choices(always_first, RELEASED, *ANSWERS) == ["lose"] * 3


def test_a_win_beside_a_tie_is_a_tie() -> None:
    def sometimes(first: str, second: str) -> float:
        return 1.0 if first == "candidate" else 0.0

    assert choices(sometimes, BOTH, ("candidate", "baseline")) == ["tie"]


def test_a_failure_in_one_order_is_a_failure_and_as_released_a_tie() -> None:
    def fails_behind(first: str, second: str) -> float | None:
        return None if first == "baseline" else 1.0

    pair = ("candidate", "baseline")
    assert choices(fails_behind, BOTH, pair) == ["failed"]
    assert choices(fails_behind, ONCE, pair) == ["failed"]
    assert choices(fails_behind, RELEASED, pair) == ["tie"]
    (outcome,) = compare(Fake(fails_behind), PAIR, [Match("?", *pair)], BOTH)
    assert outcome.failed == "no idea"


def test_each_pair_is_shown_in_both_orders_once() -> None:
    fake = Fake(by_length)
    compare(fake, PAIR, [Match("tea?", "c", "b", "r"), Match("milk?", "d", "e")], BOTH)
    assert fake.cases == [
        Case("tea?", ("c", "b"), "r"),
        Case("milk?", ("d", "e")),
        Case("tea?", ("b", "c"), "r"),
        Case("milk?", ("e", "d")),
    ]
    fake.cases.clear()
    compare(fake, PAIR, [Match("tea?", "c", "b")], RELEASED)
    assert fake.cases == [Case("tea?", ("b", "c"))]


VALUES = st.sampled_from([1.0, 0.0, -1.0, None])


@given(st.lists(st.tuples(VALUES, VALUES), max_size=20))
def test_swapping_candidate_and_baseline_swaps_wins_and_losses(said: list[tuple]) -> None:
    table = {(f"c{i}", f"b{i}"): ahead for i, (ahead, _) in enumerate(said)}
    table |= {(f"b{i}", f"c{i}"): behind for i, (_, behind) in enumerate(said)}
    pairs = [(f"c{i}", f"b{i}") for i in range(len(said))]
    mirror = {"win": "lose", "lose": "win", "tie": "tie", "failed": "failed"}

    def says(first: str, second: str) -> float | None:
        return table[first, second]

    one = choices(says, BOTH, *pairs)
    other = choices(says, BOTH, *[(b, c) for c, b in pairs])
    assert [mirror[choice] for choice in one] == other


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def outcomes(says: Says, n: int = 40, config: PairwiseConfig = BOTH) -> list:
    matches = [Match("?", f"long {i:3}", f"a {i:3}") for i in range(n)]
    return compare(Fake(says), PAIR, matches, config)


def test_position_bias_of_a_fair_and_of_a_biased_judge() -> None:
    assert position_bias(outcomes(by_length), rng()) == (0.5, (0.5, 0.5), 80)
    assert position_bias(outcomes(always_first), rng()) == (1.0, (1.0, 1.0), 80)


def test_position_bias_of_a_judge_that_is_sometimes_swayed_has_an_interval() -> None:
    def swayed(first: str, second: str) -> float:
        return 1.0 if "0" in first + second else by_length(first, second)

    found = position_bias(outcomes(swayed), rng())
    # 4 of 40 pairs (0, 10, 20, 30) are picked first in both orders: (36 + 2 x 4) / 80
    assert found.share == pytest.approx(0.55)
    assert 0.5 < found.interval.low < 0.55 < found.interval.high < 0.65


def test_ties_failures_and_single_orders_say_nothing_of_the_position() -> None:
    for silent in (
        outcomes(lambda *_: 0.0),
        outcomes(lambda *_: None),
        outcomes(always_first, 9, ONCE),
    ):
        found = position_bias(silent, rng())
        assert math.isnan(found.share)
        assert math.isnan(found.interval.low)
        assert found.picks == 0


def test_rule_judge_to_win_rate() -> None:
    right, wrong = "No, it is wrong.", "Yes, it is good."
    said = [(right, wrong)] * 6 + [(wrong, right)] * 2 + [(right, right)] * 2
    matches = [Match("Is it right?", c, b, "No, it is wrong.") for c, b in said]
    found = win_rate(
        [o.choice for o in compare(make_judge(RuleJudgeConfig()), PAIR, matches, BOTH)], rng()
    )
    assert (found.wins, found.ties, found.losses, found.failed) == (6, 2, 2, 0)


def test_no_matches_no_outcomes() -> None:
    assert compare(Fake(by_length), PAIR, [], BOTH) == []
