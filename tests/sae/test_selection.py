"""The shortcuts find what a search of everything finds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimtab.sae.selection import entries_of, largest, largest_of_batch


def draw(n: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@given(
    n=st.integers(1, 6),
    width=st.sampled_from([1, 2, 7, 12, 64, 96, 512]),
    k=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_the_largest_of_a_row_are_those_of_a_full_search(
    n: int, width: int, k: int, seed: int
) -> None:
    pre, k = draw(n, width, seed), min(k, width)
    found = largest(pre, k).sort(1).values
    assert torch.equal(found, pre.topk(k).indices.sort(1).values)


def test_ties_are_broken_but_the_values_are_the_largest() -> None:
    pre = torch.tensor([[1.0, 2.0, 2.0, 2.0] * 64])
    found = largest(pre, 5)
    assert len(found.unique()) == 5
    assert pre[0, found[0]].tolist() == [2.0] * 5


@pytest.mark.parametrize(
    ("n", "width", "k"),
    [(1, 1, 1), (3, 5, 5), (4, 8, 2), (64, 512, 4), (64, 512, 300), (200, 64, 1)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_of_a_batch_are_those_of_a_full_search(
    n: int, width: int, k: int, dtype: torch.dtype
) -> None:
    pre = draw(n, width).to(dtype)
    entries = largest_of_batch(pre, k)
    chosen = pre[entries.rows, entries.latents]
    assert torch.equal(chosen.sort().values, pre.flatten().topk(n * k).values.sort().values)
    assert len(set(zip(entries.rows.tolist(), entries.latents.tolist(), strict=True))) == n * k
    counts = torch.bincount(entries.rows, minlength=n)
    assert torch.equal(entries.starts, counts.cumsum(0) - counts)
    assert torch.equal(entries.rows, entries.rows.sort().values)


def test_a_sample_that_misleads_costs_time_and_no_entry() -> None:
    pre = torch.zeros(64, 512)
    pre.view(-1)[::61] = 9.0
    pre.view(-1)[1:400:2] = 5.0
    entries = largest_of_batch(pre, 16)
    chosen = pre[entries.rows, entries.latents].sort(descending=True).values
    assert torch.equal(chosen, pre.flatten().topk(64 * 16).values)


def test_a_batch_wide_choice_gives_rows_different_numbers_of_latents() -> None:
    pre = torch.tensor([[9.0, 8.0, 7.0], [1.0, 2.0, 3.0]])
    assert entries_of(pre, 1, batch_wide=True).rows.tolist() == [0, 0]
    assert entries_of(pre, 1, batch_wide=False).latents.tolist() == [0, 2]
