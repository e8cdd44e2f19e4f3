"""Pearson and Spearman correlation that say NaN, quietly, where there is none.

Fewer than three rows, or a side that is constant up to rounding, have no correlation. SciPy warns
there, and it ranks rounding noise as if it were an order.
"""

from typing import Final

import numpy as np
from jaxtyping import Float64
from scipy.stats import rankdata

from trimtab.metrics.vectors import ROUNDING

MIN_ROWS: Final = 3
"""Any two rows correlate perfectly."""


def pearson(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> float:
    """Pearson's r; NaN where it is undefined."""
    if len(x) < MIN_ROWS or _is_constant(x) or _is_constant(y):
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> float:
    """Spearman's rho: Pearson's r of the ranks, ties sharing their mean rank; NaN as above."""
    if len(x) < MIN_ROWS or _is_constant(x) or _is_constant(y):
        return float("nan")
    return pearson(rankdata(x), rankdata(y))


def _is_constant(x: Float64[np.ndarray, " n"]) -> bool:
    return bool(np.ptp(x) <= ROUNDING * np.abs(x).max())
