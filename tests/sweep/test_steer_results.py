"""What a layer's arms come to, by hand; and that no choice sees the half that scores."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import JudgeError
from trimtab.core.seeds import Seed
from trimtab.evaluation.judged import Answered, Judged, PairRow
from trimtab.evaluation.judges.verdict import Verdict, failure
from trimtab.evaluation.pairwise import Outcome
from trimtab.evaluation.prompts import Question
from trimtab.metrics.winrate import Choice
from trimtab.stream.steer_arms import Told
from trimtab.stream.steer_results import best, held_out, net_rate
from trimtab.stream.steer_tables import largest, margin, side_by_side

TOLD = {
    "baseline": Told("baseline", 0.0),
    "aligned 0.1": Told("aligned", 0.1),
    "aligned 0.4": Told("aligned", 0.4),
    "unaligned 0.1": Told("unaligned", 0.1),
}
CHOOSING = ("a", "b", "c")
SCORING = ("d", "e", "f")
SEED = Seed(3)


def rows(arm: str, choices: Sequence[Choice]) -> list[PairRow]:
    ids = (*CHOOSING, *SCORING)
    return [PairRow(i, "", arm, choice, None) for i, choice in zip(ids, choices, strict=True)]


def test_the_net_rate_by_hand() -> None:
    net = net_rate(["win", "win", "lose", "tie", "failed"], np.random.default_rng(0), 500)
    assert net.rate == pytest.approx((2 - 1) / 4)
    assert -1 <= net.interval.low < net.rate < net.interval.high <= 1
    assert math.isnan(net_rate(["failed"], np.random.default_rng(0), 500).rate)


@given(st.lists(st.sampled_from(["win", "tie", "lose", "failed"]), max_size=20))
def test_the_net_rate_turns_its_sign_with_the_sides(choices: list[Choice]) -> None:
    turned: dict[Choice, Choice] = {"win": "lose", "lose": "win"}
    one = net_rate(choices, np.random.default_rng(0), 100).rate
    other = net_rate([turned.get(c, c) for c in choices], np.random.default_rng(0), 100).rate
    assert one == -other or (math.isnan(one) and math.isnan(other))


def test_one_half_chooses_and_the_other_scores() -> None:
    pairs = [
        *rows("aligned 0.1", ["win", "win", "tie", "lose", "lose", "tie"]),
        *rows("aligned 0.4", ["lose", "tie", "tie", "win", "win", "win"]),
        *rows("unaligned 0.1", ["win", "win", "win", "win", "win", "win"]),
    ]
    alpha, found = best(pairs, TOLD, CHOOSING, SEED, 200)
    assert alpha == found["steer/best_alpha"] == 0.1
    assert found["steer/chosen/net"] == pytest.approx(2 / 3)
    assert found["steer/held_out/net"] == pytest.approx(-2 / 3)
    assert found["steer/held_out/win_rate"] == 0.0
    assert found["steer/held_out/prompts"] == 3.0
    others = held_out(pairs, CHOOSING, SEED, 200)
    assert others["held_out_net@unaligned 0.1"] == 1.0
    assert others["held_out_net@aligned 0.1"] == pytest.approx(-2 / 3)


def test_what_the_scoring_half_says_changes_no_choice() -> None:
    first = rows("aligned 0.1", ["win", "tie", "tie", "lose", "lose", "lose"])
    second = rows("aligned 0.4", ["tie", "tie", "tie", "win", "win", "win"])
    turned = rows("aligned 0.4", ["tie", "tie", "tie", "lose", "lose", "lose"])
    assert best([*first, *second], TOLD, CHOOSING, SEED, 100)[0] == 0.1
    assert best([*first, *turned], TOLD, CHOOSING, SEED, 100)[0] == 0.1


def test_of_strengths_that_are_as_good_the_weakest_is_taken() -> None:
    pairs = [*rows("aligned 0.4", ["tie"] * 6), *rows("aligned 0.1", ["tie"] * 6)]
    assert best(pairs, TOLD, CHOOSING, SEED, 100)[0] == 0.1


def test_a_half_without_a_verdict_is_an_error_that_counts_failures() -> None:
    with pytest.raises(JudgeError, match=r"half that chooses.*'failed': 6"):
        best(rows("aligned 0.1", ["failed"] * 6), TOLD, CHOOSING, SEED, 100)
    dead = rows("aligned 0.1", ["win", "win", "win", "failed", "failed", "failed"])
    with pytest.raises(JudgeError, match="half that scores"):
        best(dead, TOLD, CHOOSING, SEED, 100)


def verdict(value: float) -> Verdict:
    return Verdict(value, "A", "")


def test_a_margin_is_the_judges_own_measure_over_both_orders() -> None:
    both = Outcome("win", verdict(0.5), verdict(-1.0))
    assert margin(PairRow("a", "", "x", "win", both)) == pytest.approx(0.75)
    once = Outcome("lose", None, verdict(1.0))
    assert margin(PairRow("a", "", "x", "lose", once)) == -1.0
    assert margin(PairRow("a", "", "x", "win", None)) == 1.0
    assert margin(PairRow("a", "", "x", "failed", Outcome("failed", None, failure("no")))) is None


def test_answers_stand_beside_the_unedited_models() -> None:
    questions = [Question("a", "why?", reference="so")]
    answered = [
        Answered("a", "", "why?", "so", "baseline", "plain"),
        Answered("a", "", "why?", "so", "aligned 0.1", "edited"),
    ]
    judged = Judged(answered, [], [PairRow("a", "", "aligned 0.1", "win", None)])
    (row,) = side_by_side(judged, questions)
    assert (row["prompt"], row["reference"]) == ("why?", "so")
    assert (row["baseline"], row["answer"], row["choice"]) == ("plain", "edited", "win")


def test_the_clearest_wins_and_losses_come_first_and_ties_and_failures_not_at_all() -> None:
    table = [
        {"id": i, "choice": choice, "margin": value}
        for i, (choice, value) in enumerate(
            [("win", 0.2), ("tie", 0.0), ("lose", -0.9), ("failed", None), ("win", 1.0)]
        )
    ]
    assert [row["id"] for row in largest(table)] == [4, 0, 2]
