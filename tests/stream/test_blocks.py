"""The plan of blocks."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from trimtab.models.engine import Prompt
from trimtab.scenarios.vectors import SCHEMA
from trimtab.stream.blocks import Plan, distinct, from_batch, plan, to_tables
from trimtab.stream.fold import layer_groups


def table(texts: list[str]) -> pl.DataFrame:
    n = len(texts)
    return pl.DataFrame(
        {
            "scenario_id": [f"{i}/care-harm" for i in range(n)],
            "action_id": range(n),
            "action": texts,
            "foundation": ["care-harm"] * n,
            "pole": ["care"] * n,
            "vector": [[1.0] + [0.0] * 9] * n,
            "typicality": [1.0] * n,
            "polarity": [1] * n,
            "split": ["train"] * n,
            "source": ["test"] * n,
        },
        schema=SCHEMA,
    )


def planned(texts: list[str], block_prompts: int) -> Plan:
    first, prompt_of_row = distinct(texts)
    prompts = [Prompt([7] * len(texts[i]), f"{i}") for i in first]
    return plan(table(texts), prompts, prompt_of_row, block_prompts)


TEXTS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=40)


@given(TEXTS, st.integers(1, 7))
def test_each_text_runs_once_and_each_row_finds_its_own(texts: list[str], size: int) -> None:
    result = planned(texts, size)
    assert result.num_prompts == len(set(texts)) == sum(len(b.prompts) for b in result.blocks)
    rows = np.concatenate([block.labels.index for block in result.blocks])
    assert sorted(rows.tolist()) == list(range(len(texts)))
    for block in result.blocks:
        assert len(block.prompts) <= size
        for row, prompt in zip(block.labels.index, block.prompt_of_row, strict=True):
            assert block.prompts[prompt].tokens == [7] * len(texts[row])
            assert texts[int(block.prompts[prompt].name)] == texts[row]


@given(TEXTS, st.integers(1, 7))
def test_prompts_grow_longer_from_block_to_block(texts: list[str], size: int) -> None:
    lengths = [len(p.tokens) for block in planned(texts, size).blocks for p in block.prompts]
    assert lengths == sorted(lengths)


@given(TEXTS)
def test_a_block_travels_whole(texts: list[str]) -> None:
    blocks = planned(texts, 3).blocks
    for block, sent in zip(blocks, to_tables([[block] for block in blocks]), strict=True):
        column = sent["blocks"].to_pylist()
        (back,) = from_batch({"blocks": np.array(column, dtype=object)})
        assert back.prompts == block.prompts
        assert np.array_equal(back.labels.vector, block.labels.vector)


def test_the_data_hash_sees_an_exchanged_text() -> None:
    assert planned(["a", "b"], 2).data_hash == planned(["a", "b"], 1).data_hash
    assert planned(["a", "b"], 2).data_hash != planned(["b", "a"], 2).data_hash


def test_layers_are_grouped_so_that_three_states_of_each_fit() -> None:
    assert layer_groups(range(5), 10**9, memory_gb=6.1) == [(0, 1), (2, 3), (4,)]
    assert layer_groups(range(2), 10**9, memory_gb=0.1) == [(0,), (1,)]
    assert layer_groups(range(3), 10**3, memory_gb=8.0) == [(0, 1, 2)]
