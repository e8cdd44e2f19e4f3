"""Padding-free batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import ModelError
from trimtab.models.batching import plan_batches


@given(st.lists(st.integers(1, 30), max_size=80), st.integers(30, 200))
def test_every_prompt_is_in_one_batch_of_its_own_length_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = plan_batches(lengths, budget)
    everyone = np.concatenate([b.which for b in batches]) if batches else np.array([])
    assert sorted(everyone.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert {lengths[i] for i in batch.which} == {batch.length}
        assert batch.length * len(batch.which) <= budget


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(30, 200))
def test_no_two_batches_of_a_length_could_be_one(lengths: list[int], budget: int) -> None:
    by_length: dict[int, list[int]] = {}
    for batch in plan_batches(lengths, budget):
        by_length.setdefault(batch.length, []).append(len(batch.which))
    for length, sizes in by_length.items():
        assert all(size == budget // length for size in sizes[:-1])


def test_a_prompt_longer_than_the_budget_is_an_error() -> None:
    with pytest.raises(ModelError, match="has 9 tokens and token_budget=8"):
        plan_batches([3, 9], 8)
