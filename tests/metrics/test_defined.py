import numpy as np

from trimtab.metrics.defined import defined, mean_defined

NAN = float("nan")


def test_what_is_not_defined_is_left_out() -> None:
    assert defined(["a", "b", "c"], [1, NAN, np.float64(2.5)]) == {"a": 1.0, "c": 2.5}


def test_a_mean_is_over_what_is_defined() -> None:
    assert mean_defined(np.array([[1.0, NAN], [4.0, NAN]])) == 2.5
    assert np.isnan(mean_defined(np.array([NAN])))
    assert np.isnan(mean_defined(np.array([])))
