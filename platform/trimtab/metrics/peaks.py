"""The best layer of each measure that has one.

Highest where following moral lines is a high value (gradient, ARI, R2), lowest for the cosine of a
virtue with its vice. Of layers that tie, the lowest. One walk over a few hundred numbers.
"""

from collections.abc import Mapping

from trimtab.core.names import HIGHER_IS_PEAK, LOWER_IS_PEAK


def peaks(by_name: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """`peak/NAME` (the value) and `peak_layer/NAME` (where) of each measure that has a best.

    Args:
        by_name: for each metric name the layers where it is defined, with its value. Names
            without a peak, and names without a layer, are passed over.
    """
    found = {}
    for sign, names in ((1, HIGHER_IS_PEAK), (-1, LOWER_IS_PEAK)):
        for name in names:
            if layers := by_name.get(name):
                best = _best_layer(layers, sign)
                found |= {f"peak/{name}": layers[best], f"peak_layer/{name}": float(best)}
    return found


def _best_layer(layers: Mapping[int, float], sign: int) -> int:
    return min(layers, key=lambda layer: (-sign * layers[layer], layer))
