"""Which folds make a diagnosis, in which pass, and what their results say.

First pass, no row held: the centres of the poles, and the moments behind the readout. Second pass
(over the store, or with the model once more): the gradient, which needs the centres, and what must
see a layer's rows together (clusters, the released readout).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from trimtab.core.rows import SPLITS
from trimtab.metrics import categorical, dimensional, gradient, structural
from trimtab.metrics.categorical import Categorical, Centres
from trimtab.metrics.dimensional import Moments
from trimtab.metrics.gradient import Gradient
from trimtab.metrics.released import ReleasedReadout
from trimtab.metrics.structural import Structural
from trimtab.stream.config import DiagnoseConfig
from trimtab.stream.fold import Measure

EVERY_SPLIT = tuple(range(len(SPLITS)))


class LayerResult(NamedTuple):
    """What was found at one layer."""

    metrics: dict[str, float]
    """By the names of `core.names`; what is undefined is left out."""
    matrix: Float[np.ndarray, "10 10"] | None
    """Cosines between the centres of the poles."""


def first_pass(config: DiagnoseConfig) -> dict[str, Measure]:
    """Folds that need no other result, the same at every layer."""
    wanted, named = config.measures.which, {}
    if "categorical" in wanted or "gradient" in wanted:
        named["categorical"] = Measure(Centres(), _splits(config))
    if "dimensional" in wanted and not config.as_released:
        named["dimensional"] = Measure(Moments(), EVERY_SPLIT)
    return named


def second_pass(config: DiagnoseConfig, first: Mapping[str, Any]) -> dict[str, Measure]:
    """Folds of one layer that need the first pass' results or the layer's rows."""
    wanted, named = config.measures.which, {}
    if "gradient" in wanted:
        fold = Gradient(first["categorical"], leave_one_out=not config.as_released)
        named["gradient"] = Measure(fold, _splits(config))
    if "structural" in wanted:
        measures = config.measures
        fold = Structural(measures.min_cluster_size, measures.min_samples, measures.variance)
        named["structural"] = Measure(fold, _splits(config))
    if "dimensional" in wanted and config.as_released:
        named["dimensional"] = Measure(ReleasedReadout(), EVERY_SPLIT)
    return named


def bytes_per_layer(config: DiagnoseConfig, d_model: int, num_rows: int) -> int:
    """Upper estimate of the states of one layer, in bytes."""
    first = dimensional.state_bytes(d_model) if "dimensional" in config.measures.which else 0
    holds_rows = "structural" in config.measures.which or config.as_released
    second = 2 * num_rows * d_model * 4 if holds_rows else 0
    return max(first, second, 8 * 11 * d_model)


def finish_bytes(config: DiagnoseConfig, num_rows: int) -> int:
    """What finishing one layer holds at once: for clusters, all distances between its rows."""
    return 16 * num_rows**2 if "structural" in config.measures.which else 0


def layer_result(config: DiagnoseConfig, results: Mapping[str, Any]) -> LayerResult:
    """The numbers and the matrix of one layer, from both passes' results."""
    found: dict[str, float] = {}
    matrix = None
    if "categorical" in config.measures.which:
        centres: Categorical = results["categorical"]
        found |= categorical.metrics(centres)
        matrix = centres.matrix
    if "gradient" in results:
        found |= gradient.metrics(results["gradient"])
    if "structural" in results:
        found |= structural.metrics(results["structural"])
    if "dimensional" in results:
        found |= dimensional.metrics(results["dimensional"])
    return LayerResult(found, matrix)


def _splits(config: DiagnoseConfig) -> tuple[int, ...]:
    return tuple(SPLITS.index(split) for split in config.measures.splits)
