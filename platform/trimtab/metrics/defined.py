"""Values that may be undefined: NaN inside a result, absent from what is reported.

A tracker must never see NaN: a chart draws it as zero or breaks, and an average of it is NaN. So
each measure's `metrics` passes through `defined`, and averages are over what is defined.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float


def defined(names: Iterable[str], values: Iterable[float | int]) -> dict[str, float]:
    """Pairs names with values (equally many) and leaves out those that are NaN."""
    pairs = zip(names, values, strict=True)
    return {name: float(value) for name, value in pairs if not np.isnan(value)}


def mean_defined(values: Float[np.ndarray, "*any"]) -> float:
    """Mean of the values that are not NaN; NaN if none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
