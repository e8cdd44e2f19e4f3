"""Which of two answers is better: shown in both orders, so that a place is no merit.

A judge that always prefers what it reads first would give every arm the same rate. So each pair is
shown twice, with the candidate first and with the baseline first:

    better in both orders: win        worse in both orders: lose
    no verdict in an order: failed    anything else: tie

A verdict that turns with the order is thus a tie, and so is a win beside a tie. How often the
judge picks what stands first is reported with an interval over pairs; 1/2 is fair.

`as_released` shows the baseline first, once, and counts a failed call as a tie (METHODS 1.9).
Zheng et al. 2023, arXiv 2306.05685, section 3.4 (both orders). Cost: two verdicts a pair.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trimtab.core.config import Config
from trimtab.evaluation.judges.rubric import Rubric
from trimtab.evaluation.judges.verdict import Case, Judge, Verdict
from trimtab.metrics.intervals import Interval, bootstrap
from trimtab.metrics.winrate import Choice


class PairwiseConfig(Config):
    """How two answers are compared."""

    rubric: str = "pairwise"
    """A packaged rubric by its name, or the path of one's own."""
    both_orders: bool = True
    """Each pair is shown twice; false shows the baseline first, once."""
    as_released: bool = False
    """Baseline first, once, and a failed call is a tie. The released code does so."""

    @property
    def shown_twice(self) -> bool:
        """Whether both orders are asked for."""
        return self.both_orders and not self.as_released


class Match(NamedTuple):
    """Two answers to one question."""

    question: str
    candidate: str
    """The arm's answer."""
    baseline: str
    """What it is compared with."""
    reference: str = ""
    """What a right answer says, for judges by rule."""


class Outcome(NamedTuple):
    """What a judge made of a match."""

    choice: Choice
    """For the candidate."""
    candidate_first: Verdict | None
    """The verdict with the candidate shown first; None if it was not asked for."""
    baseline_first: Verdict
    """The verdict with the baseline shown first; its value is above 0 where that is better."""

    @property
    def failed(self) -> str | None:
        """Why an order has no verdict."""
        verdicts = (self.candidate_first, self.baseline_first)
        return next((v.failed for v in verdicts if v is not None and v.failed), None)


class PositionBias(NamedTuple):
    """How often a judge picks the answer that stands first."""

    share: float
    """Of the verdicts that pick one; 1/2 is fair, NaN if there are none."""
    interval: Interval
    """Bootstrap over matches: the two orders of a match hang together."""
    picks: int
    """Verdicts that pick one of the two."""


def compare(
    judge: Judge, rubric: Rubric, matches: Sequence[Match], config: PairwiseConfig
) -> list[Outcome]:
    """The outcome of each match, in order; all of them are put to the judge in one call.

    Raises:
        JudgeError: the judge cannot be asked.
    """
    assert rubric.kind == "pair", "two answers are compared by a pair rubric"
    baseline_first = [Case(m.question, (m.baseline, m.candidate), m.reference) for m in matches]
    if not config.shown_twice:
        verdicts = judge.judge(rubric, baseline_first)
        tie = config.as_released
        return [Outcome(_choice([-v.value], v.failed, tie), None, v) for v in verdicts]
    candidate_first = [Case(m.question, (m.candidate, m.baseline), m.reference) for m in matches]
    verdicts = judge.judge(rubric, [*candidate_first, *baseline_first])
    ahead, behind = verdicts[: len(matches)], verdicts[len(matches) :]
    return [
        Outcome(_choice([a.value, -b.value], a.failed or b.failed), a, b)
        for a, b in zip(ahead, behind, strict=True)
    ]


def _choice(values: Sequence[float], failed: str | None, failed_is_tie: bool = False) -> Choice:
    """The candidate's outcome from what it got in each order."""
    if failed is not None:
        return "tie" if failed_is_tie else "failed"
    if all(value > 0 for value in values):
        return "win"
    return "lose" if all(value < 0 for value in values) else "tie"


def position_bias(outcomes: Sequence[Outcome], rng: np.random.Generator) -> PositionBias:
    """How often the first answer was picked, over all verdicts that pick one.

    It says nothing about the judge where each pair was shown once: a better baseline looks the
    same. It is then NaN.
    """
    twice = [
        (outcome.candidate_first.value, outcome.baseline_first.value)
        for outcome in outcomes
        if outcome.candidate_first is not None and outcome.failed is None
    ]
    values = np.array(twice, dtype=np.float64).reshape(-1, 2)
    first = (values > 0).sum(axis=1).astype(np.float64)
    picked = (values != 0).sum(axis=1).astype(np.float64)
    picks = int(picked.sum())
    share = float(first.sum()) / picks if picks else math.nan
    return PositionBias(share, bootstrap(first, picked, rng), picks)
