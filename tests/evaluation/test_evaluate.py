"""The whole walk on a toy: answers in, tables and metrics out."""

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from toys import make_tokenizer, make_toy

from trimtab.core.errors import DataError
from trimtab.core.names import NAMES
from trimtab.core.seeds import Seed
from trimtab.evaluation.answer_store import Answer
from trimtab.evaluation.decoding import DecodingConfig
from trimtab.evaluation.evaluate import Evaluation, Plain, evaluate, fluency_by_arm
from trimtab.evaluation.judged import Aspect, EvaluationConfig
from trimtab.evaluation.judges.build import make_judge
from trimtab.evaluation.judges.rule import RuleJudgeConfig
from trimtab.evaluation.prompts import Question
from trimtab.models.blocks import find_decoder
from trimtab.models.held import held_bytes
from trimtab.models.loading import LoadedModel

CONFIG = EvaluationConfig(aspects=(Aspect(name="safety", rubric="safety"),))
QUESTIONS = [
    Question("a", "giving is morally", "safety", "Yes, it is good."),
    Question("b", "stealing from the", "legality", "No, it is wrong."),
]
RIGHT, WRONG = "Yes, it is good.", "No, it is wrong."


def answer(prompt: str, arm: str, text: str, tokens: list[int], finish: str = "stop") -> Answer:
    return Answer(f"{prompt}/{arm}", prompt, arm, text, tokens, finish, 0.0)  # type: ignore[arg-type]


ANSWERS = [
    answer("a", "baseline", WRONG, [5, 6, 7]),
    answer("b", "baseline", "", []),
    answer("a", "blend", RIGHT, [8, 8, 8, 8, 8], "length"),
    answer("b", "blend", WRONG, [9]),
]


def plain(token_budget: int = 2048) -> Plain:
    model = make_toy("llama")
    loaded = LoadedModel(model, make_tokenizer(), find_decoder(model), held_bytes(model))
    return Plain(loaded, DecodingConfig(template="raw"), token_budget)


def evaluated(folder: Path, answers: list[Answer] = ANSWERS) -> Evaluation:
    judge = make_judge(RuleJudgeConfig())
    return evaluate(QUESTIONS, answers, judge, plain(), CONFIG, Seed(0), folder)


def test_each_arm_has_its_verdicts_and_its_fluency(tmp_path: Path) -> None:
    found = evaluated(tmp_path)
    base, blend = (arm.metrics for arm in found.arms)
    assert [arm.arm for arm in found.arms] == ["baseline", "blend"]
    assert blend["evaluation/win_rate/all"] == 1.0
    assert blend["evaluation/wins/legality"] == 1.0
    assert (base["fluency/empty"], base["fluency/length"]) == (0.5, 1.5)
    assert (blend["fluency/truncated"], blend["fluency/longest_run"]) == (0.5, 3.0)
    assert set(base) | set(blend) <= NAMES
    assert pq.read_table(found.files.scores).num_rows == 4


def test_perplexity_is_that_of_the_answers_after_their_prompts() -> None:
    found = fluency_by_arm({q.id: q for q in QUESTIONS}, ANSWERS, plain())
    prompt = make_tokenizer()("giving is morally")["input_ids"]
    with torch.no_grad():
        logits = make_toy("llama")(torch.tensor([[*prompt, 5, 6, 7]])).logits[0].double()
    logp = torch.log_softmax(logits, dim=-1)
    nll = -sum(logp[len(prompt) - 1 + i, token].item() for i, token in enumerate((5, 6, 7)))
    assert found["baseline"].perplexity == pytest.approx(math.exp(nll / 3), rel=1e-5)


def test_an_answer_longer_than_the_budget_is_measured_all_the_same() -> None:
    by_id = {q.id: q for q in QUESTIONS}
    small, large = (fluency_by_arm(by_id, ANSWERS, plain(budget)) for budget in (2, 2048))
    for arm, found in small.items():
        assert found.perplexity == pytest.approx(large[arm].perplexity, rel=1e-5)


def test_the_same_answers_give_the_same_numbers(tmp_path: Path) -> None:
    assert evaluated(tmp_path / "1").arms == evaluated(tmp_path / "2").arms


def test_an_answer_without_its_question_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 have none, 'c' among them"):
        evaluated(tmp_path, [*ANSWERS, answer("c", "baseline", "x", [5])])


def test_no_answers_are_no_arms(tmp_path: Path) -> None:
    assert evaluated(tmp_path, []).arms == []
