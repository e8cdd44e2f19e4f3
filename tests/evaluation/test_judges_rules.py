import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.config import build
from trimtab.core.errors import ConfigError, JudgeError
from trimtab.evaluation.judges.build import make_judge
from trimtab.evaluation.judges.rubric import PACKAGED, Rubric, label_nearest, load_rubric
from trimtab.evaluation.judges.rule import RuleJudge, RuleJudgeConfig, load_rules
from trimtab.evaluation.judges.verdict import Case, Judge
from trimtab.models.nursery_text import ANSWERS

SAFETY, LEGALITY, PAIRWISE = (load_rubric(name) for name in ("safety", "legality", "pairwise"))


def score(answer: str, reference: str, rubric: Rubric = SAFETY) -> float:
    judge = make_judge(RuleJudgeConfig())
    return judge.judge(rubric, [Case("Is it right?", (answer,), reference)])[0].value


def test_every_packaged_rubric_is_one_and_says_the_labels_it_wants() -> None:
    names = sorted(path.stem for path in PACKAGED.glob("*.yaml"))
    assert names == ["emotion", "legality", "pairwise", "safety"]
    for name in names:
        rubric = load_rubric(name)
        last = rubric.prompt.strip().splitlines()[-1]
        assert all(label in last for label in rubric.labels)
    assert set(SAFETY.labels.values()) == {1.0, 2.0, 3.0}
    assert set(LEGALITY.labels.values()) == {1.0, 3.0}


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("3", "3"),
        (" 3.\n", "3"),
        ("**2**", "2"),
        ("Score: 1", "1"),
        ("It pleads and warns.\n\nVerdict: 3", "3"),
        ("The answer is 2", "2"),
        ("<think>1 or 2?</think>\n2", "2"),
        ("3/5", None),
        ("13", None),
        ("1 2", None),
        ("4", None),
        ("between 2 and 3", None),
        ("3\nBut I am not sure.", None),
        ("three", None),
        ("", None),
        ("\n \n", None),
    ],
)
def test_a_reply_is_read_by_its_last_line_alone(reply: str, label: str | None) -> None:
    assert SAFETY.read(reply) == label


@given(st.text(max_size=60))
def test_whatever_is_said_is_a_label_or_nothing(reply: str) -> None:
    assert SAFETY.read(reply) in (None, *SAFETY.labels)


def test_texts_with_braces_are_put_in_once_and_as_they_are() -> None:
    message = SAFETY.message("What does {answer} mean?", ("A place, like {question}.",))
    assert "What does {answer} mean?" in message
    assert "A place, like {question}." in message


def test_a_pair_is_shown_in_the_order_given() -> None:
    message = PAIRWISE.message("Tea?", ("Yes please.", "No thanks."))
    assert message.index("Tea?") < message.index("Yes please.") < message.index("No thanks.")


def test_a_rubric_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "value.yaml"
    labels = {str(n): n for n in range(1, 6)}
    path.write_text(
        yaml.safe_dump({"kind": "score", "labels": labels, "prompt": "{question} {answer}"})
    )
    assert load_rubric(str(path)).range == (1.0, 5.0)


def test_an_unknown_rubric_lists_those_that_are_known() -> None:
    with pytest.raises(JudgeError, match=r"emotion, legality, pairwise, safety.*'kindness'"):
        load_rubric("kindness")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "{question}"}, r"must have the places \['answer', 'question'\]"),
        ({"prompt": "{question} {answer} {mood}"}, "must have the places"),
        ({"labels": {"1": 1}}, "at least 2"),
        ({"labels": {"1": 1, "two words ": 2}}, "without spaces"),
        ({"kind": "pair", "prompt": "{question} {first} {second}"}, "label above 0"),
        ({"lables": {}}, "did you mean `labels`"),
    ],
)
def test_a_rubric_that_cannot_work_is_refused(change: dict[str, object], message: str) -> None:
    tree = {"kind": "score", "labels": {"1": 1, "2": 2}, "prompt": "{question} {answer}"}
    with pytest.raises(ConfigError, match=message):
        build(Rubric, tree | change, where="mine.yaml")


def test_the_nearest_label() -> None:
    assert label_nearest(SAFETY.labels, 2.6) == "3"
    assert label_nearest(LEGALITY.labels, 2.0) == "1"


def test_an_answer_like_the_reference_is_best_and_the_opposite_is_worst() -> None:
    for grade, reference in ANSWERS.items():
        for other, answer in ANSWERS.items():
            expected = 3.0 - 2.0 * min(1.0, abs(grade - other) / 4)
            assert score(answer, reference) == pytest.approx(expected), (answer, reference)


def test_the_packaged_rules_know_each_answer_of_the_nursery() -> None:
    rules = load_rules("verdict")
    assert {answer: rules.grade(answer) for answer in ANSWERS.values()} == {
        answer: float(grade) for grade, answer in ANSWERS.items()
    }


def test_an_answer_that_no_rule_knows_is_worst_and_such_a_reference_is_a_failure() -> None:
    assert score("turtles turtles turtles", "No, it is wrong.") == 1.0
    assert score("", "No, it is wrong.") == 1.0
    (verdict,) = make_judge(RuleJudgeConfig()).judge(SAFETY, [Case("?", ("Yes.",), "maybe")])
    assert math.isnan(verdict.value)
    assert verdict.failed == "no rule knows the reference"


def test_a_pair_is_won_by_the_nearer_answer_and_mirrors() -> None:
    judge = make_judge(RuleJudgeConfig())
    right, wrong, unknown = "No, it is wrong.", "Yes, it is good.", "turtles"

    def value(first: str, second: str) -> float:
        return judge.judge(PAIRWISE, [Case("?", (first, second), "No, it is very wrong.")])[0].value

    assert (value(right, wrong), value(wrong, right)) == (1.0, -1.0)
    assert value(right, right) == value(unknown, unknown) == 0.0
    assert value(wrong, unknown) == 1.0


def test_without_a_span_the_grade_is_the_score(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("grades: [{pattern: sorry, grade: 3}, {pattern: sure, grade: 9}]")
    judge = RuleJudge(load_rules(str(path)))
    texts = ("I am SORRY, sure", "sure", "hm")
    verdicts = judge.judge(SAFETY, [Case("?", (text,)) for text in texts])
    assert [v.value for v in verdicts] == [3.0, 3.0, 1.0]
    (pair,) = judge.judge(PAIRWISE, [Case("?", ("sorry", "sure"))])
    assert pair.value == -1.0


def test_rules_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("grades: [{pattern: '(', grade: 3}]")
    with pytest.raises(ConfigError, match="regular expression"):
        load_rules(str(path))
    for grade in (".nan", ".inf", "-.inf"):
        path.write_text(f"grades: [{{pattern: x, grade: {grade}}}]")
        with pytest.raises(ConfigError, match="finite number"):
            load_rules(str(path))
    with pytest.raises(JudgeError, match="one of verdict, or the path"):
        load_rules("nowhere")


def test_it_is_a_judge_that_repeats_itself() -> None:
    judge = make_judge(RuleJudgeConfig())
    assert isinstance(judge, Judge)
    cases = [Case("?", (a,), "No, it is wrong.") for a in ANSWERS.values()]
    assert judge.judge(SAFETY, cases) == judge.judge(SAFETY, cases)
    assert judge.identity()["kind"] == "rule"
