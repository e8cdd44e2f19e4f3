"""Products with active entries, against the same products of dense matrices."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimtab.sae import sparse
from trimtab.sae.sparse import (
    Entries,
    by_latent,
    collect,
    decode,
    fixed_entries,
    products,
    sums,
)

N, WIDTH, D_MODEL = 7, 9, 5
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def ragged(mask: Tensor) -> Entries:
    rows, latents = mask.nonzero().unbind(1)
    return Entries(rows, latents, torch.searchsorted(rows, torch.arange(len(mask))))


def dense(values: Tensor, entries: Entries, n: int = N) -> Tensor:
    z = torch.zeros(n, WIDTH, dtype=values.dtype)
    return z.index_put_((entries.rows, entries.latents), values)


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.2, 0.7, 1.0]))
def test_each_product_is_that_of_the_dense_matrices_whatever_is_active(
    seed: int, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    entries = ragged(torch.rand(N, WIDTH, generator=generator) < share)
    values, x, W = draw(len(entries.rows)), draw(N, D_MODEL, seed=1), draw(WIDTH, D_MODEL, seed=2)
    z = dense(values, entries)
    order = by_latent(entries, WIDTH)

    torch.testing.assert_close(decode(values, entries, W), z @ W, **EXACT)
    expected = (x @ W.T)[entries.rows, entries.latents]
    torch.testing.assert_close(products(x, W, entries), expected, **EXACT)
    out = torch.full((WIDTH, D_MODEL), torch.nan, dtype=torch.float64)
    collect(values, order, x, out)
    torch.testing.assert_close(out, z.T @ x, **EXACT)
    collect(2 * values, order, x, out, add=True)
    torch.testing.assert_close(out, 3 * z.T @ x, **EXACT)
    torch.testing.assert_close(sums(values.unsqueeze(1), order)[:, 0], z.sum(0), **EXACT)


@pytest.mark.parametrize("chunk_latents", [1, 4, 9, 100])
def test_the_size_of_the_buffer_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, chunk_latents: int
) -> None:
    entries = ragged(draw(N, WIDTH) > 0.3)
    values, x = draw(len(entries.rows)), draw(N, D_MODEL, seed=1)
    expected, out = torch.empty(2, WIDTH, D_MODEL, dtype=torch.float64)
    collect(values, by_latent(entries, WIDTH), x, expected)
    monkeypatch.setattr(sparse, "CHUNK_BYTES", chunk_latents * D_MODEL * 8)
    collect(values, by_latent(entries, WIDTH), x, out)
    assert torch.equal(out, expected)


def test_k_entries_a_row_lie_row_after_row() -> None:
    entries = fixed_entries(torch.tensor([[3, 1], [2, 0], [1, 3]]))
    assert entries.rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert entries.latents.tolist() == [3, 1, 2, 0, 1, 3]
    assert entries.starts.tolist() == [0, 2, 4]


def test_entries_of_one_latent_keep_the_order_of_their_rows() -> None:
    order = by_latent(fixed_entries(torch.tensor([[3, 1], [1, 0], [1, 3]])), 5)
    assert order.rows.tolist() == [1, 0, 1, 2, 0, 2]
    assert order.starts.tolist() == [0, 1, 4, 4, 6]


def test_a_latent_named_twice_in_a_row_counts_twice() -> None:
    entries = fixed_entries(torch.tensor([[2, 2]]))
    found = decode(torch.tensor([1.0, 2.0]), entries, torch.eye(4))
    assert found.tolist() == [[0, 0, 3, 0]]
