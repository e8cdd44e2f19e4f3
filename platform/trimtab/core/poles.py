"""The ten moral poles and the vector a judged action gets.

Moral Foundations Theory has five foundations, each with a virtue and a vice: ten poles, in the
order of the paper. An action's moral vector has ten places; each foundation the annotators named
gets the action's virtue magnitude and its vice magnitude in its two places, everything else is 0.

    virtue magnitude = max(0,  judgment / 2) * agree / 4
    vice magnitude   = max(0, -judgment / 2) * agree / 4

so magnitudes are one of 0, .125, .25, .375, .5, .75, 1. The magnitude is the *typicality* of
Prototype Theory: 1 is a very good (or bad) act about which nearly everyone agrees.

Li, Teng and Wang 2026, arXiv 2603.15615; docs: METHODS 1.1.
"""

from typing import Final

import numpy as np
from jaxtyping import Float, Int

FOUNDATIONS: Final = (
    "care-harm",
    "fairness-cheating",
    "loyalty-betrayal",
    "authority-subversion",
    "sanctity-degradation",
)
POLES: Final = tuple(pole for foundation in FOUNDATIONS for pole in foundation.split("-"))
POLARITIES: Final = {-1: "vice", 0: "neutral", 1: "virtue"}
TYPICALITIES: Final = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
NUM_POLES: Final = len(POLES)


def virtue(foundation: int) -> int:
    """Index of the virtue pole of a foundation (both count from 0)."""
    return 2 * foundation


def vice(foundation: int) -> int:
    """Index of the vice pole of a foundation (both count from 0)."""
    return 2 * foundation + 1


def signed_magnitude(
    judgment: Int[np.ndarray, " n"], agree: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Signed typicality in [-1, 1]: positive for virtue, negative for vice.

    Args:
        judgment: `action-moral-judgment`, -2 (very bad) to 2 (very good).
        agree: `action-agree`, 0 (almost nobody) to 4 (nearly everyone).
    """
    return (judgment / 2.0) * (agree / 4.0)
