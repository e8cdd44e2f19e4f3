"""The local judge against plain forward passes, on a toy with a tokenizer that has digits."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from toys import make_toy, watched_head
from transformers import PreTrainedTokenizerFast

from trimtab.core.errors import JudgeError, ModelError
from trimtab.evaluation.judges.local import LocalJudge, rendered
from trimtab.evaluation.judges.rubric import Rubric
from trimtab.evaluation.judges.verdict import Case, Judge
from trimtab.models.blocks import find_decoder
from trimtab.models.held import held_bytes
from trimtab.models.loading import LoadedModel

WORDS = ["<unk>", "1", "2", "3", "A", "B", "C", "Verdict:", "is", "tea", "good", "yes", "no", "<u>"]
TEMPLATE = "{% for m in messages %}<u> {{ m['content'] }}{% endfor %} "
SCORE = Rubric(kind="score", labels={"1": 1, "2": 2, "3": 3}, prompt="{question} {answer}")
PAIR = Rubric(kind="pair", labels={"A": 1, "B": -1, "C": 0}, prompt="{question} {first} {second}")
CASES = [
    Case("is tea good", ("yes",)),
    Case("is tea good", ("no no no",)),
    Case("tea", ("no",)),
    Case("is tea good", ("no",)),
]


def tokenizer(words: list[str] = WORDS, template: str | None = None) -> PreTrainedTokenizerFast:
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", chat_template=template)


def judge(words: list[str] = WORDS, template: str | None = None, budget: int = 64) -> LocalJudge:
    model = make_toy("qwen3")
    loaded = LoadedModel(model, tokenizer(words, template), find_decoder(model), held_bytes(model))
    return LocalJudge(loaded, "toy", budget)


def probabilities(text: str, labels: list[str]) -> np.ndarray:
    """The independent way: all logits of one unbatched pass."""
    ids = [WORDS.index(word) for word in text.split()]
    with torch.no_grad():
        logits: Any = make_toy("qwen3")(torch.tensor([ids])).logits[0, -1].double()
    shares = torch.softmax(logits, dim=-1)[[WORDS.index(label) for label in labels]]
    return (shares / shares.sum()).numpy()


def test_a_score_is_the_expected_value_over_its_labels() -> None:
    verdicts = judge().judge(SCORE, CASES)
    for case, verdict in zip(CASES, verdicts, strict=True):
        p = probabilities(f"{case.question} {case.answers[0]} Verdict:", ["1", "2", "3"])
        assert verdict.value == pytest.approx(p @ [1, 2, 3], abs=1e-6)
        assert verdict.label == "123"[p.argmax()]
        assert verdict.failed is None


def test_a_pair_goes_to_the_likeliest_label() -> None:
    first, second = "yes", "no no"
    (verdict,) = judge().judge(PAIR, [Case("is tea good", (first, second))])
    p = probabilities("is tea good yes no no Verdict:", ["A", "B", "C"])
    assert verdict.label == "ABC"[p.argmax()]
    assert verdict.value == PAIR.labels[verdict.label]


def test_a_verdict_does_not_depend_on_what_shares_its_call() -> None:
    one = judge()
    with watched_head(one._model) as in_one_piece:
        together = one.judge(SCORE, CASES)
    assert in_one_piece
    assert all(in_one_piece)
    alone = [judge(budget=8).judge(SCORE, [case])[0] for case in CASES]
    assert [v.value for v in together] == pytest.approx([v.value for v in alone], abs=1e-6)


def test_the_chat_template_is_used_where_there_is_one() -> None:
    assert rendered(tokenizer(template=TEMPLATE), "tea") == "<u> tea "
    assert rendered(tokenizer(), "tea\n") == "tea\n\n"
    (verdict,) = judge(template=TEMPLATE).judge(SCORE, CASES[:1])
    p = probabilities("<u> is tea good yes Verdict:", ["1", "2", "3"])
    assert verdict.value == pytest.approx(p @ [1, 2, 3], abs=1e-6)


def test_thinking_is_switched_off() -> None:
    template = "{{ messages[0]['content'] }}{% if enable_thinking is false %} no {% endif %}"
    assert rendered(tokenizer(template=template), "tea") == "tea no "


def test_a_template_that_refuses_the_question_is_one_error() -> None:
    refusing = "{{ raise_exception('Conversation roles must alternate') }}"
    with pytest.raises(
        ModelError, match=r"refuses a lone question.*alternate.*another judge model"
    ):
        judge(template=refusing).judge(SCORE, CASES[:1])


def test_a_tokenizer_that_cannot_tell_the_labels_apart_is_named() -> None:
    without = ["x" if word in "23" else word for word in WORDS]
    with pytest.raises(JudgeError, match=r"each label \(1, 2, 3\).*as one token.*toy"):
        judge(without).judge(SCORE, CASES[:1])


def test_a_tokenizer_that_splits_a_label_is_named() -> None:
    broken = judge()
    broken._tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    labels = {"1": 1.0, "22": 2.0}
    with pytest.raises(JudgeError, match="as one token"):
        broken.judge(SCORE.model_copy(update={"labels": labels}), CASES[:1])


def test_a_case_that_is_too_long_is_a_failure_and_the_others_are_judged() -> None:
    long = Case("is tea good", (" ".join(["no"] * 80),))
    verdicts = judge().judge(SCORE, [CASES[0], long, CASES[1]])
    assert [v.failed is None for v in verdicts] == [True, False, True]
    assert verdicts[1].failed == "84 tokens, and this judge reads at most 64"


def test_logits_that_are_no_numbers_are_a_failure() -> None:
    broken = judge()
    with torch.no_grad():
        broken._model.lm_head.weight.fill_(float("nan"))
    (verdict,) = broken.judge(SCORE, CASES[:1])
    assert verdict.failed == "the judge's logits are not finite"


def test_no_cases_are_no_verdicts_and_it_is_a_judge() -> None:
    assert judge().judge(SCORE, []) == []
    assert isinstance(judge(), Judge)
    assert judge().identity() == {"kind": "local", "model": "toy"}
