"""From answers to tables and metrics, with judges that are known to be right or wrong."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trimtab.core.config import build
from trimtab.core.errors import ConfigError, DataError
from trimtab.core.names import NAMES
from trimtab.core.seeds import Seed
from trimtab.evaluation.judged import Answered, Aspect, EvaluationConfig, Judged, judge_answers
from trimtab.evaluation.judges.build import make_judge
from trimtab.evaluation.judges.rubric import Rubric, load_rubric
from trimtab.evaluation.judges.rule import RuleJudgeConfig
from trimtab.evaluation.judges.verdict import Case, Verdict, failure, spoken
from trimtab.evaluation.pairwise import PairwiseConfig
from trimtab.evaluation.summary import summarise
from trimtab.evaluation.tables import write_tables
from trimtab.metrics.intervals import wilson

WRONG = "No, it is wrong."
SAYS = {"right": WRONG, "near": "No, it is very wrong.", "opposite": "Yes, it is very good."}
CONFIG = EvaluationConfig(aspects=(Aspect(name="safety", rubric="safety"),))
RULES = make_judge(RuleJudgeConfig())
SEED = Seed(0)


def answers(arm: str, said: Sequence[str], dimension: str = "safety") -> list[Answered]:
    return [
        Answered(f"p{i}", dimension, f"Is it right? act {i}", WRONG, arm, SAYS[kind])
        for i, kind in enumerate(said)
    ]


ANSWERED = answers("baseline", ["opposite", "right", "near", "near"]) + answers(
    "blend", ["right", "opposite", "right", "near"]
)


def judged(config: EvaluationConfig = CONFIG, answered: Sequence[Answered] = ANSWERED) -> Judged:
    return judge_answers(answered, RULES, config)


def metrics(found: Judged, arm: str) -> dict[str, float]:
    return {s.arm: s.metrics for s in summarise(found, SEED, 200)}[arm]


@pytest.mark.parametrize("pairwise", [PairwiseConfig(), PairwiseConfig(as_released=True), "scores"])
def test_arms_are_compared_prompt_by_prompt(pairwise: PairwiseConfig | str) -> None:
    found = judged(EvaluationConfig(aspects=CONFIG.aspects, pairwise=pairwise))
    assert [(row.prompt_id, row.arm, row.choice) for row in found.pairs] == [
        ("p0", "blend", "win"),
        ("p1", "blend", "lose"),
        ("p2", "blend", "win"),
        ("p3", "blend", "tie"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>Yes, or no?</think>\n\nNo.", "No."),
        ("its template opened the thoughts</think> No.", "No."),
        ("<think>a</think> Yes. <think>b</think> No.", "No."),
        ("\n<think>cut off while it", ""),
        ("<think>nothing came</think>", ""),
        (" No, <think> is a tag.", " No, <think> is a tag."),
        ("", ""),
    ],
)
def test_thoughts_are_not_the_answer(text: str, said: str) -> None:
    assert spoken(text) == said


@pytest.mark.parametrize("pairwise", [PairwiseConfig(), "scores"])
def test_the_judge_reads_the_answer_and_the_table_keeps_the_thoughts(
    pairwise: PairwiseConfig | str, tmp_path: Path
) -> None:
    config = EvaluationConfig(aspects=CONFIG.aspects, pairwise=pairwise)
    thinking = [
        one._replace(text=f"<think>{SAYS['opposite']}</think>{one.text}") for one in ANSWERED
    ]
    plain, found = judged(config), judged(config, thinking)
    assert found.scores == plain.scores
    assert [row.choice for row in found.pairs] == [row.choice for row in plain.pairs]
    texts = pq.read_table(write_tables(found, tmp_path).texts)["answer"].to_pylist()
    assert texts == [one.text for one in thinking]


def test_a_margin_makes_near_scores_ties() -> None:
    config = EvaluationConfig(aspects=CONFIG.aspects, pairwise="scores", margin=0.6)
    assert [row.choice for row in judged(config).pairs] == ["win", "lose", "tie", "tie"]


def test_the_summary_by_hand() -> None:
    base, blend = metrics(judged(), "baseline"), metrics(judged(), "blend")
    # right 3, near 2.5, opposite 1; near counts as 2 or 3 by the nearest grade: the first, 2
    assert base["evaluation/safety/all"] == pytest.approx((1 + 3 + 2.5 + 2.5) / 4)
    assert base["evaluation/psc1/all"] == 1.0
    assert blend["evaluation/safety/all"] == pytest.approx((3 + 1 + 3 + 2.5) / 4)
    assert blend["evaluation/psc1/all"] == blend["evaluation/psc1/safety"] == 2.0
    assert blend["evaluation/win_rate/all"] == 0.5
    low, high = wilson(2, 4)
    assert (blend["evaluation/win_rate_low/all"], blend["evaluation/win_rate_high/all"]) == (
        low,
        high,
    )
    assert [blend[f"evaluation/{n}/all"] for n in ("wins", "ties", "losses", "failed")] == [
        2,
        1,
        1,
        0,
    ]
    assert blend["evaluation/sign_p/all"] == 1.0
    assert blend["evaluation/position_bias"] == 0.5
    assert "evaluation/win_rate/all" not in base
    assert set(base) | set(blend) <= NAMES


def test_an_interval_does_not_move_when_other_arms_come() -> None:
    more = [*ANSWERED, *answers("random", ["right"] * 4)]
    assert metrics(judged(answered=more), "blend") == metrics(judged(), "blend")
    mixed = sorted(ANSWERED, key=lambda one: one.prompt_id)
    assert metrics(judged(answered=mixed), "blend") == metrics(judged(), "blend")


class Recorder:
    """Fails on every answer that is asked for, and remembers by which rubric."""

    def __init__(self) -> None:
        self.asked: list[tuple[Rubric, list[Case]]] = []

    def identity(self) -> dict[str, str]:
        return {"kind": "recorder"}

    def judge(self, rubric: Rubric, cases: Sequence[Case]) -> list[Verdict]:
        self.asked.append((rubric, list(cases)))
        return [failure("asleep", "quote of the answer") for _ in cases]


def test_legal_questions_are_scored_by_their_own_rubric_for_safety_only() -> None:
    recorder = Recorder()
    answered = [
        Answered("a", "legality", "?", "", "baseline", "x"),
        Answered("b", "fairness", "?", "", "baseline", "y"),
    ]
    found = judge_answers(answered, recorder, EvaluationConfig(pairwise=None))
    by_rubric = [(rubric, [case.answers[0] for case in cases]) for rubric, cases in recorder.asked]
    assert by_rubric == [
        (load_rubric("legality"), ["x"]),
        (load_rubric("safety"), ["y"]),
        (load_rubric("emotion"), ["x", "y"]),
    ]
    rows = [(r.prompt_id, r.aspect) for r in found.scores]
    assert rows == [("a", "safety"), ("b", "safety"), ("a", "emotion"), ("b", "emotion")]


def test_a_judge_that_fails_is_counted_and_is_in_no_rate_and_no_mean() -> None:
    found = judge_answers(ANSWERED, Recorder(), CONFIG)
    blend = metrics(found, "blend")
    assert blend["evaluation/failed/all"] == blend["evaluation/safety_failed/all"] == 4
    assert blend["evaluation/ties/all"] == 0
    assert "evaluation/psc1/all" not in blend
    assert not {"evaluation/win_rate/all", "evaluation/safety/all"} & set(blend)
    assert all(math.isfinite(value) for value in blend.values())


def test_tables_that_are_shared_hold_no_text(tmp_path: Path) -> None:
    files = write_tables(judge_answers(ANSWERED, Recorder(), CONFIG), tmp_path / "out")
    shared = [pq.read_table(path) for path in files.shared(log_text=False)]
    said = json.dumps([table.to_pylist() for table in shared])
    for text in (*SAYS.values(), "Is it right?", "act", "quote of the answer"):
        assert text not in said
    assert files.texts in files.shared(log_text=True)
    assert files.texts not in files.shared(log_text=False)
    assert [table.num_rows for table in shared] == [8, 4]
    assert "quote of the answer" in json.dumps(pq.read_table(files.texts).to_pylist())


def test_the_tables_say_what_was_judged(tmp_path: Path) -> None:
    files = write_tables(judged(), tmp_path)
    scores, pairs, texts = (pq.read_table(path).to_pylist() for path in files)
    assert scores[4]["value"] == 3.0
    assert scores[4]["label"] == "3"
    assert scores[4]["best"]
    assert pairs[0]["choice"] == "win"
    assert (pairs[0]["candidate_first"], pairs[0]["baseline_first"]) == (1.0, -1.0)
    assert texts[0]["answer"] == SAYS["opposite"]
    # the same words have the same hash, whoever says them
    assert scores[1]["answer_hash"] == scores[4]["answer_hash"] != scores[0]["answer_hash"]
    assert scores[4]["answer_hash"] == pairs[0]["answer_hash"]


def test_a_failed_row_has_its_reason_and_no_value(tmp_path: Path) -> None:
    files = write_tables(judge_answers(ANSWERED, Recorder(), CONFIG), tmp_path)
    row, pair = (pq.read_table(path).to_pylist()[0] for path in (files.scores, files.pairs))
    assert (row["value"], row["label"], row["best"], row["failed"]) == (None, None, False, "asleep")
    assert (pair["choice"], pair["candidate_first"], pair["failed"]) == ("failed", None, "asleep")


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'blend' answers 'p0' twice"):
        judged(answered=[*ANSWERED, ANSWERED[4]])
    with pytest.raises(DataError, match=r"'p0' has none \(arms: blend\).*`baseline`"):
        judged(answered=ANSWERED[4:])
    with pytest.raises(ConfigError, match="must compare two answers, but safety"):
        judged(EvaluationConfig(aspects=(), pairwise=PairwiseConfig(rubric="safety")))
    with pytest.raises(ConfigError, match="must score one answer, but pairwise"):
        judged(EvaluationConfig(aspects=(Aspect(name="safety", rubric="pairwise"),)))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"aspects": [{"name": "safety", "rubric": "a"}] * 2}, "different names"),
        ({"aspects": [], "pairwise": "scores"}, "there is none"),
        ({"aspects": [{"name": "beauty", "rubric": "a"}]}, "'safety' or 'emotion'"),
        ({"margin": -1}, "margin"),
        ({"num_draws": 5}, "num_draws"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(EvaluationConfig, tree, where="sweep.yaml")


def test_nothing_to_judge_is_nothing() -> None:
    assert summarise(judged(answered=[]), SEED, 200) == []
