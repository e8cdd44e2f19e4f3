"""What every fold of the room promises, whatever it measures."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import ActivationError
from trimtab.core.fold import Fold
from trimtab.core.names import BY_LAYER
from trimtab.core.rows import Rows
from trimtab.metrics import categorical, dimensional, gradient, structural
from trimtab.metrics.categorical import Centres
from trimtab.metrics.dimensional import Moments
from trimtab.metrics.gradient import Gradient
from trimtab.metrics.released import ReleasedReadout
from trimtab.metrics.structural import Structural

KINDS = ("centres", "gradient", "structural", "moments", "released")
RESULT_METRICS: dict[str, Callable[[Any], dict[str, float]]] = {
    "centres": categorical.metrics,
    "gradient": gradient.metrics,
    "structural": structural.metrics,
    "moments": dimensional.metrics,
    "released": dimensional.metrics,
}


def fold_of(kind: str, rows: Rows) -> Fold[Any, Any]:
    if kind == "gradient":
        first_pass = Centres()
        return Gradient(first_pass.finish(first_pass.update(first_pass.zero(), rows)))
    others = {
        "centres": Centres(),
        "structural": Structural(min_cluster_size=5, min_samples=2),
        "moments": Moments(),
        "released": ReleasedReadout(),
    }
    return others[kind]


def take(rows: Rows, which: np.ndarray) -> Rows:
    return Rows(rows.x[which], rows.labels.take(which))


def arrays(value: object) -> Iterator[np.ndarray]:
    if is_dataclass(value):
        value = [getattr(value, f.name) for f in fields(value)]
    if isinstance(value, list | tuple):
        for part in value:
            yield from arrays(part)
    else:
        yield np.asarray(value, dtype=np.float64)


def assert_same(a: object, b: object, tolerance: float) -> None:
    for left, right in zip(arrays(a), arrays(b), strict=True):
        scale = np.abs(left[~np.isnan(left)]).max(initial=0.0)
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_cut_order_and_merge_tree_gives_what_one_update_gives(
    kind: str, data: st.DataObject, make_rows: Callable[..., Rows]
) -> None:
    rows = make_rows(60, 6)
    fold = fold_of(kind, rows)
    order = np.array(data.draw(st.permutations(range(60))))
    cuts = sorted(data.draw(st.lists(st.integers(0, 60), max_size=6)))
    states = [fold.update(fold.zero(), take(rows, block)) for block in np.split(order, cuts)]
    while len(states) > 1:
        b = states.pop(data.draw(st.integers(0, len(states) - 1)))
        a = states.pop(data.draw(st.integers(0, len(states) - 1)))
        states.append(fold.merge(a, b))
    once = fold.update(fold.zero(), rows)
    if kind == "moments":
        assert_same(once, states[0], 1e-12)
        assert_same(fold.finish(once), fold.finish(states[0]), 1e-9)
    else:
        assert_same(fold.finish(once), fold.finish(states[0]), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_updating_twice_is_merging_two_updates(kind: str, make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(60, 6)
    fold, half = fold_of(kind, rows), np.arange(60) < 25
    first, second = take(rows, half), take(rows, ~half)
    twice = fold.update(fold.update(fold.zero(), first), second)
    merged = fold.merge(fold.update(fold.zero(), first), fold.update(fold.zero(), second))
    assert_same(fold.finish(twice), fold.finish(merged), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_give_the_same_bits(kind: str, make_rows: Callable[..., Rows]) -> None:
    rows = make_rows()
    fold = fold_of(kind, rows)
    a, b = (fold.finish(fold.update(fold.zero(), rows)) for _ in range(2))
    assert_same(a, b, 0.0)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_too_few_rows_report_only_what_is_defined(
    kind: str, num_rows: int, make_rows: Callable[..., Rows]
) -> None:
    rows = take(make_rows(), np.arange(num_rows))
    fold = fold_of(kind, rows)
    values = RESULT_METRICS[kind](fold.finish(fold.update(fold.zero(), rows)))
    assert values.keys() <= BY_LAYER
    assert np.isfinite(list(values.values())).all()
    assert "structural/ari/polarity" not in values
    assert "dimensional/r2_adjusted" not in values


@pytest.mark.parametrize("kind", KINDS)
def test_constant_activations_measure_nothing(kind: str, make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(60, 6)
    rows = Rows(np.full_like(rows.x, 1234.567), rows.labels)
    fold = fold_of(kind, rows)
    values = RESULT_METRICS[kind](fold.finish(fold.update(fold.zero(), rows)))
    assert np.isfinite(list(values.values())).all()
    if kind in ("centres", "gradient"):
        assert values == {}
    if kind == "moments":
        assert set(values) == {"dimensional/rows", "dimensional/width"}


@pytest.mark.parametrize("kind", ["centres", "gradient", "structural"])
def test_a_constant_column_changes_no_cosine_and_no_cluster(
    kind: str, make_rows: Callable[..., Rows]
) -> None:
    rows = make_rows()
    wider = Rows(np.hstack([rows.x, np.full((240, 1), 7, np.float32)]), rows.labels)
    values = []
    for these in (rows, wider):
        fold = fold_of(kind, these)
        values.append(RESULT_METRICS[kind](fold.finish(fold.update(fold.zero(), these))))
    assert values[0] == pytest.approx(values[1], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_activation_that_is_not_a_number_is_refused_by_its_scenario(
    kind: str, make_rows: Callable[..., Rows]
) -> None:
    rows = make_rows(20, 4)
    fold = fold_of(kind, rows)
    rows.x[7, 2] = np.nan
    with pytest.raises(ActivationError, match=f"scenario {rows.labels.index[7]} holds nan"):
        fold.update(fold.zero(), rows)


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_a_full_layer_has_a_listed_name(
    kind: str, make_rows: Callable[..., Rows]
) -> None:
    rows = make_rows()
    fold = fold_of(kind, rows)
    values = RESULT_METRICS[kind](fold.finish(fold.update(fold.zero(), rows)))
    assert values
    assert values.keys() <= BY_LAYER
