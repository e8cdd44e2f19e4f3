import pytest

from trimtab.core.names import BY_LAYER, HIGHER_IS_PEAK, LOWER_IS_PEAK, NAMES
from trimtab.metrics.peaks import peaks


def test_the_peak_of_agreement_is_high_and_that_of_a_virtue_vice_cosine_is_low() -> None:
    found = peaks(
        {
            "dimensional/r2": {0: -3.0, 4: 0.2, 7: 0.1},
            "categorical/cosine/mean": {0: 0.9, 4: -0.5, 7: 0.3},
        }
    )
    assert found == {
        "peak/dimensional/r2": 0.2,
        "peak_layer/dimensional/r2": 4.0,
        "peak/categorical/cosine/mean": -0.5,
        "peak_layer/categorical/cosine/mean": 4.0,
    }


@pytest.mark.parametrize("name", ["dimensional/r2", "categorical/cosine/mean"])
def test_of_layers_that_tie_the_lowest_is_the_peak(name: str) -> None:
    assert peaks({name: {9: 0.5, 2: 0.5, 3: 0.5}})[f"peak_layer/{name}"] == 2.0


def test_what_has_no_peak_or_no_layer_is_passed_over() -> None:
    assert peaks({"structural/noise": {0: 1.0}, "dimensional/r2": {}}) == {}
    assert peaks({}) == {}


def test_every_peak_has_a_listed_name() -> None:
    found = peaks({name: {0: 1.0} for name in BY_LAYER})
    assert len(found) == 2 * len((*HIGHER_IS_PEAK, *LOWER_IS_PEAK))
    assert found.keys() <= NAMES
