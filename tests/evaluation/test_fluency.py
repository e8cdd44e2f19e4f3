import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import make_toy, watched_head

from trimtab.core.errors import ModelError
from trimtab.core.names import NAMES
from trimtab.evaluation.fluency import (
    answer_nll,
    distinct,
    fluency,
    longest_run,
    ngrams,
    perplexity,
    repetition,
)

ANSWERS = st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=6)


def test_distinct_and_repetition_by_hand() -> None:
    answer = [1, 2, 1, 2, 1]
    assert ngrams(answer, 2) == [(1, 2), (2, 1), (1, 2), (2, 1)]
    assert distinct([answer], 1) == 2 / 5
    assert distinct([answer], 2) == 2 / 4
    assert distinct([[1, 2], [1, 2], [3]], 2) == 1 / 2  # over answers, never across their border
    assert repetition(answer, 2) == 1 / 2
    assert repetition([7] * 10, 4) == 1 - 1 / 7
    assert repetition([1, 2, 3, 4, 5], 4) == 0.0


def test_runs_by_hand() -> None:
    assert longest_run([1, 1, 2, 2, 2, 1]) == 3
    assert longest_run([4]) == 1
    assert longest_run([]) == 0


def test_too_short_to_have_an_n_gram_is_undefined_and_not_perfect() -> None:
    assert math.isnan(repetition([1, 2, 3], 4))
    assert math.isnan(distinct([[1], []], 2))
    assert math.isnan(distinct([], 1))


@given(ANSWERS, st.integers(1, 4))
def test_shares_are_shares_and_order_does_not_matter(answers: list[list[int]], n: int) -> None:
    share = distinct(answers, n)
    assert math.isnan(share) or 0.0 < share <= 1.0
    assert share == distinct(answers[::-1], n) or math.isnan(share)
    for answer in answers:
        found = repetition(answer, n)
        assert math.isnan(found) or 0.0 <= found < 1.0


@given(ANSWERS)
def test_saying_it_all_twice_halves_distinct(answers: list[list[int]]) -> None:
    once, twice = distinct(answers, 2), distinct(answers + answers, 2)
    assert math.isnan(once) or twice == pytest.approx(once / 2)


def test_the_likelihood_is_that_of_one_answer_at_a_time() -> None:
    model = make_toy("llama")
    prompts = [[1, 5, 9], [1, 7], [1, 5, 9, 11], [1, 7]]
    answers = [[3, 4], [8, 8, 8], [6], []]
    with watched_head(model) as in_one_piece:
        found = answer_nll(model, prompts, answers, token_budget=10)
    assert in_one_piece
    assert all(in_one_piece)
    for prompt, answer, nll in zip(prompts, answers, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0].double()
        logp = torch.log_softmax(logits, dim=-1)
        expected = -sum(logp[len(prompt) + i - 1, token].item() for i, token in enumerate(answer))
        assert nll == pytest.approx(expected, abs=1e-4)
    assert found[3] == 0.0


def test_likelihood_does_not_depend_on_the_batches() -> None:
    model = make_toy("qwen3")
    prompts = [[1, n, 2] for n in range(3, 13)]
    answers = [[n, 4, 5][: 1 + n % 3] for n in range(10)]
    alone = answer_nll(model, prompts, answers, token_budget=6)
    together = answer_nll(model, prompts, answers, token_budget=60)
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_an_answer_over_the_budget_is_an_error() -> None:
    with pytest.raises(ModelError, match="budget"):
        answer_nll(make_toy("llama"), [[1] * 9], [[2] * 9], token_budget=10)


def test_perplexity_weighs_tokens_and_knows_nothing_of_nothing() -> None:
    nll, lengths = np.array([2.0, 0.0, 6.0]), np.array([1.0, 0.0, 3.0])
    assert perplexity(nll, lengths) == pytest.approx(math.exp(2.0))
    assert math.isnan(perplexity(np.zeros(2), np.zeros(2)))
    # a model that finds all 64 tokens equally likely
    assert perplexity(np.full(3, 5 * math.log(64)), np.full(3, 5.0)) == pytest.approx(64)
    assert perplexity(np.array([1e6]), np.ones(1)) == math.inf


def test_an_arm_in_numbers() -> None:
    found = fluency(
        [[1, 1, 1, 1, 1], [1, 2, 3, 4, 5], []],
        np.array([5.0, 5.0, 0.0]),
        [False, False, True],
        [True, False, False],
    )
    assert found.perplexity == pytest.approx(math.e)
    assert found.distinct == {1: 5 / 10, 2: 5 / 8, 3: 4 / 6}
    assert found.repetition == pytest.approx((0.5 + 0.0) / 2)
    assert found.longest_run == 2.0
    assert found.length == pytest.approx(10 / 3)
    assert found.empty == found.truncated == pytest.approx(1 / 3)
    assert set(found.metrics) <= NAMES
    assert len(found.metrics) == 9


def test_an_arm_that_says_nothing_reports_only_that() -> None:
    found = fluency([[], []], np.zeros(2), [True, True], [False, False])
    assert found.metrics == {
        "fluency/longest_run": 0.0,
        "fluency/length": 0.0,
        "fluency/empty": 1.0,
        "fluency/truncated": 0.0,
    }
