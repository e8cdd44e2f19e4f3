"""Win rates: how often one arm's answer is better than the baseline's, and how often nobody knows.

Four outcomes are counted apart. A failed comparison is not a tie: it is left out of the rate
(win rate = wins / (wins + ties + losses)) and reported beside it, so that a judge that breaks down
cannot pull the rate anywhere. `as_released` counts a failure as a tie, as the released code does.

Li, Teng and Wang 2026, arXiv 2603.15615, pairwise evaluation; METHODS 1.9.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from trimtab.metrics.intervals import LEVEL, NUM_DRAWS, Interval, bootstrap, sign_test, wilson

Choice = Literal["win", "tie", "lose", "failed"]
CHOICES: Final[tuple[Choice, ...]] = get_args(Choice)


class WinRate(NamedTuple):
    """What n comparisons came to."""

    wins: int
    ties: int
    losses: int
    failed: int
    """Comparisons without a verdict; in no rate."""
    rate: float
    """wins / (wins + ties + losses); NaN where nothing was judged."""
    wilson: Interval
    """Of the rate, from the counts."""
    bootstrap: Interval
    """Of the rate, over prompts."""
    sign_p: float
    """Exact two-sided sign test of wins against losses; ties are left out."""

    @property
    def judged(self) -> int:
        """Comparisons that have a verdict."""
        return self.wins + self.ties + self.losses


def win_rate(
    choices: Sequence[Choice],
    rng: np.random.Generator,
    level: float = LEVEL,
    num_draws: int = NUM_DRAWS,
) -> WinRate:
    """Counts outcomes, one per prompt, and says how sure the rate is."""
    wins, ties, losses, failed = (sum(c == kind for c in choices) for kind in CHOICES)
    judged = wins + ties + losses
    won = np.array([c == "win" for c in choices if c != "failed"], dtype=np.float64)
    return WinRate(
        wins=wins,
        ties=ties,
        losses=losses,
        failed=failed,
        rate=wins / judged if judged else math.nan,
        wilson=wilson(wins, judged, level),
        bootstrap=bootstrap(won, np.ones_like(won), rng, level, num_draws),
        sign_p=sign_test(wins, losses),
    )


def by_score(candidate: float | None, baseline: float | None, margin: float = 0.0) -> Choice:
    """The outcome of two scores: a win or a loss by more than `margin`; failed if one is missing."""
    if candidate is None or baseline is None:
        return "failed"
    gap = candidate - baseline
    return "win" if gap > margin else "lose" if gap < -margin else "tie"
