"""Made-up diagnoses, small enough to check by eye."""

from collections.abc import Callable

import numpy as np
import pytest

from trimtab.core.poles import FOUNDATIONS, POLES
from trimtab.report.figures import Diagnosis


def rising(num_layers: int, top: float) -> dict[int, float]:
    return {layer: top * (layer + 1) / num_layers for layer in range(num_layers)}


@pytest.fixture
def diagnosis() -> Callable[[int], Diagnosis]:
    """Builds a model of a number of layers whose every metric rises to its last layer."""

    def build(num_layers: int) -> Diagnosis:
        curves = {
            "categorical/cosine/mean": rising(num_layers, 0.8),
            **{f"categorical/cosine/{f}": rising(num_layers, 0.7) for f in FOUNDATIONS},
            **{
                f"gradient/spearman/{pole}": rising(num_layers, 0.05 * k)
                for k, pole in enumerate(POLES)
            },
            "gradient/spearman/mean": rising(num_layers, 0.225),
            "structural/ari/polarity": rising(num_layers, 0.5),
            "structural/ari/foundation": rising(num_layers, 0.1),
            "structural/noise": rising(num_layers, 0.9),
            "dimensional/r2": rising(num_layers, 0.25),
        }
        return Diagnosis(curves, {0: np.eye(10) * 0.5 + 0.5}, 1234)

    return build
