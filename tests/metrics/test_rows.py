from collections.abc import Callable

import numpy as np

from trimtab.core.rows import Rows
from trimtab.metrics.rows import KeepsRows


def test_rows_come_back_sorted_with_their_own_activations(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(50, 4)
    keeps = KeepsRows()
    state = keeps.zero()
    for part in np.split(np.arange(50), [0, 13, 14, 40]):
        state = keeps.update(state, Rows(rows.x[part], rows.labels.take(part)))
    x, labels = state.in_order()
    order = np.argsort(rows.labels.index)
    np.testing.assert_array_equal(labels.index, np.arange(50))
    np.testing.assert_array_equal(x, rows.x[order])
    np.testing.assert_array_equal(labels.vector, rows.labels.vector[order])
    assert x.dtype == np.float32


def test_a_state_does_not_change_when_its_source_does(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(10, 4)
    keeps = KeepsRows()
    state = keeps.update(keeps.zero(), rows)
    before = state.in_order().x
    rows.x[:] = 0
    np.testing.assert_array_equal(state.in_order().x, before)


def test_no_rows_are_an_empty_table() -> None:
    x, labels = KeepsRows().zero().in_order()
    assert x.shape == (0, 0)
    assert len(labels) == 0
