"""Correlations of all latents in one pass."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.locate.moments import LatentMoments, merge, no_moments, observe, pearson


def pairs(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 6, generator=draw).relu()
    return z, torch.randn(n, 3, generator=draw, dtype=torch.float64)


def assert_same(a: LatentMoments, b: LatentMoments, tolerance: float) -> None:
    assert a.count == b.count
    for name in ("active", "mean_z", "mean_y", "szz", "syy", "szy"):
        torch.testing.assert_close(
            getattr(a, name), getattr(b, name), rtol=tolerance, atol=tolerance
        )


def test_correlations_are_numpys() -> None:
    z, y = pairs(50)
    expected = np.corrcoef(z.double().T, y.T)[:6, 6:]
    np.testing.assert_allclose(pearson(observe(z, y)), expected, rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(data=st.data())
def test_any_cut_and_order_gives_what_one_look_gives(data: st.DataObject) -> None:
    z, y = pairs(40)
    order = torch.tensor(data.draw(st.permutations(range(40))))
    cuts = sorted(data.draw(st.lists(st.integers(0, 40), max_size=4)))
    parts = torch.tensor_split(order, cuts)
    found = no_moments(6, 3)
    for part in reversed(parts):
        seen = observe(z[part], y[part]) if len(part) else no_moments(6, 3)
        found = merge(seen, found)
    assert_same(found, observe(z, y), 1e-11)


def test_a_large_offset_costs_no_digits() -> None:
    z, y = pairs(60)
    far = z.double() + 1e6
    halves = merge(observe(far[:20], y[:20]), observe(far[20:], y[20:]))
    torch.testing.assert_close(pearson(halves), pearson(observe(z, y)), rtol=0, atol=1e-8)


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
def test_a_constant_latent_has_no_correlation(value: float) -> None:
    z, y = pairs(33)
    z[:, 2] = value
    r = pearson(merge(observe(z[:11], y[:11]), observe(z[11:], y[11:])))
    assert r[2].isnan().all()
    assert not r[[0, 1, 3, 4, 5]].isnan().any()


def test_no_rows_have_no_correlation() -> None:
    assert pearson(no_moments(4, 2)).isnan().all()


def test_active_rows_are_counted() -> None:
    z, y = pairs(40)
    assert observe(z, y).active.tolist() == (z > 0).sum(0).tolist()
