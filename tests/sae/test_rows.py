"""Rows by number, wherever they lie."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import StoreError
from trimtab.sae.rows import LayerRows, from_tensors, stored_rows
from trimtab.store.reader import open_store
from trimtab.store.writer import Writer


@given(which=st.lists(st.integers(0, 7), max_size=12))
def test_rows_come_in_the_order_asked_for_from_any_shard(which: list[int]) -> None:
    parts = [torch.arange(6.0).view(3, 2), torch.arange(6.0, 10.0).view(2, 2)]
    shard = np.array([0, 1, 0, 1, 0, 0, 1, 0])
    prompt = np.array([0, 1, 2, 0, 1, 1, 1, 0])
    rows = LayerRows({4: parts}, shard, prompt)
    expected = [parts[shard[i]][prompt[i]].tolist() for i in which]
    assert rows.gather(4, np.array(which, int)).tolist() == expected


def test_taken_rows_are_counted_anew() -> None:
    rows = from_tensors({0: torch.arange(8.0).view(8, 1)})
    mask = rows.take(np.arange(8) % 2 == 1)
    assert len(mask) == 4
    assert mask.gather(0, np.array([3, 0]))[:, 0].tolist() == [7, 1]
    assert mask.take(np.array([2])).gather(0, np.array([0])).item() == 5


def test_rows_of_any_stored_precision_are_gathered_in_float32() -> None:
    rows = from_tensors({0: torch.tensor([[1.5], [2.5]]).bfloat16()})
    x = rows.gather(0, np.array([1]))
    assert x.dtype == torch.float32
    assert x.item() == 2.5


def written(folder: Path) -> Path:
    """Scenario i has value i; blocks and prompts are out of order, and prompts are shared."""
    writer = Writer(folder, {"model": "toy"}, ["mean"])
    for block, index in enumerate(([5, 0, 3], [4, 1, 2])):
        values = torch.tensor(sorted(set(index)), dtype=torch.float32)
        prompts = values.view(-1, 1).expand(-1, 2)
        place = np.searchsorted(values.numpy(), index)
        x = {0: prompts.bfloat16(), 1: (10 * prompts).bfloat16()}
        writer.write(block, "mean", x, place, np.array(index), [str(i) for i in index])
    return writer.finish(2, {})


def test_a_stores_rows_are_in_the_order_of_the_scenario_table(tmp_path: Path) -> None:
    rows = stored_rows(open_store(written(tmp_path)), "mean", (0, 1), 6)
    assert (rows.layers, rows.d_model, len(rows)) == ((0, 1), 2, 6)
    assert rows.gather(0, np.arange(6))[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert rows.gather(1, np.array([4, 4, 0]))[:, 1].tolist() == [40, 40, 0]


def test_a_store_of_another_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"each of the table's 7 scenarios once, but holds 6"):
        stored_rows(open_store(written(tmp_path)), "mean", (0,), 7)


def test_a_layer_that_was_not_extracted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not keep layer 2"):
        stored_rows(open_store(written(tmp_path)), "mean", (2,), 6)
