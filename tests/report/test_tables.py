"""The summary table: each measure at its best layer, undefined where it is undefined."""

from collections.abc import Callable

import pytest

from trimtab.report.figures import Diagnosis
from trimtab.report.tables import summary


def test_each_measure_stands_at_its_best_layer(diagnosis: Callable[[int], Diagnosis]) -> None:
    (row,) = summary({"nursery/base": diagnosis(4)})
    assert row == {
        "model": "base",
        "layers": 4,
        "rows": 1234,
        "cosine": pytest.approx(0.2),
        "cosine_layer": 0,
        "gradient": pytest.approx(0.225),
        "gradient_layer": 3,
        "ari": pytest.approx(0.5),
        "ari_layer": 3,
        "ari_noise": pytest.approx(0.9),
        "r2": pytest.approx(0.25),
        "r2_layer": 3,
    }


def test_the_noise_is_that_of_the_layer_of_the_ari() -> None:
    curves = {"structural/ari/polarity": {1: 0.4, 2: 0.3}, "structural/noise": {1: 0.7, 2: 0.1}}
    (row,) = summary({"m": Diagnosis(curves, {}, 9)})
    assert (row["ari"], row["ari_noise"]) == (0.4, 0.7)


def test_what_is_undefined_is_none_in_the_same_columns(
    diagnosis: Callable[[int], Diagnosis],
) -> None:
    full, empty = summary({"a": diagnosis(2), "b": Diagnosis({}, {}, 0)})
    assert list(full) == list(empty)
    assert {k: v for k, v in empty.items() if v is not None} == {
        "model": "b",
        "layers": 0,
        "rows": 0,
    }
