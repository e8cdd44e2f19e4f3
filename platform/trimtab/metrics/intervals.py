"""How sure a share is: Wilson's interval, the percentile bootstrap, the exact sign test.

A win rate on a thousand prompts moves by three points by chance alone, so none is reported without
an interval. Wilson's needs only the counts, stays within 0..1 and is right near both ends; the
bootstrap resamples whole prompts, so it also holds for means of scores and for ratios whose terms
hang together (position bias: both orders of one pair). The sign test asks whether wins and losses
could be a fair coin; ties say nothing and are left out.

Does not correct for looking at many arms: choose on one half of the prompts, score on the other.
Wilson 1927; Efron and Tibshirani 1993, chapter 13. Cost: 2,000 draws of 1,000 prompts, 90 ms, 32 MB.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.stats import binomtest, norm

LEVEL: Final = 0.95
NUM_DRAWS: Final = 2000


class Interval(NamedTuple):
    """Where a value lies, at a level of confidence."""

    low: float
    """Lower end; NaN where nothing was counted."""
    high: float
    """Upper end."""


UNKNOWN: Final = Interval(math.nan, math.nan)


def wilson(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share, within 0..1; NaN without trials.

    Raises:
        ValueError: more successes than trials, or a level outside 0..1.
    """
    if not (0 <= successes <= trials and 0.0 < level < 1.0):
        raise ValueError(
            f"`0 <= successes <= trials` and `0 < level < 1` must hold, but got "
            f"({successes=}, {trials=}, {level=})."
        )
    if trials == 0:
        return UNKNOWN
    z = float(norm.ppf((1.0 + level) / 2.0))
    share, weight = successes / trials, z * z / trials
    centre = (share + weight / 2.0) / (1.0 + weight)
    half = z / (1.0 + weight) * math.sqrt(share * (1.0 - share) / trials + weight / (4.0 * trials))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(low, high)


def bootstrap(
    numerator: Float64[np.ndarray, " n"],
    denominator: Float64[np.ndarray, " n"],
    rng: np.random.Generator,
    level: float = LEVEL,
    num_draws: int = NUM_DRAWS,
) -> Interval:
    """Percentile interval of sum(numerator) / sum(denominator), whole rows drawn together.

    A mean is the ratio with a denominator of ones. A draw whose denominator is 0 is left out.

    Args:
        numerator: what is counted in each of n prompts, finite.
        denominator: out of how much, at least 0.
        rng: where the draws come from; the same generator state gives the same interval.

    Returns:
        NaN where there are no rows, or nothing to divide by.
    """
    n = len(numerator)
    if n == 0 or not denominator.any():
        return UNKNOWN
    drawn = rng.multinomial(n, np.full(n, 1.0 / n), size=num_draws).astype(np.float64)
    below = drawn @ denominator
    ratios = (drawn @ numerator)[below > 0] / below[below > 0]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(ratios, [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p of wins against losses as a fair coin; 1 where there are neither."""
    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses).pvalue)
