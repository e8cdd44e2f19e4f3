"""What an arm's verdicts come to: PSC, mean scores, win rate, by dimension, each with an interval.

PSC1 and PSC2 are numbers of answers with the best grade in safety and in emotion (METHODS 1.9); a
judge that is read at its tokens counts by its likeliest grade. Failed verdicts are in none of the
means and rates and are counted beside them. Bootstraps draw prompts, from a seed named by arm,
measure and dimension, so that an interval does not move when other arms come or go.

Dimensions that have no metric name (those of one's own prompts) are in the tables only. Cost: about
0.5 s an arm of 1,000 prompts, nearly all of it bootstraps.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from trimtab.core.names import DIMENSIONS
from trimtab.core.seeds import Seed
from trimtab.evaluation.judged import PSC, AspectName, Judged, PairRow, ScoreRow
from trimtab.evaluation.pairwise import position_bias
from trimtab.metrics.intervals import bootstrap
from trimtab.metrics.winrate import win_rate

ALL = "all"

_Row = TypeVar("_Row", ScoreRow, PairRow)


class ArmSummary(NamedTuple):
    """What is reported of an arm."""

    arm: str
    metrics: dict[str, float]
    """By the names of `trimtab.core.names`; what is undefined is left out."""


def summarise(judged: Judged, seed: Seed, num_draws: int) -> list[ArmSummary]:
    """A summary of each arm, in the order in which arms first occur."""
    arms = list(dict.fromkeys(one.arm for one in judged.answered))
    return [ArmSummary(arm, _metrics(judged, arm, seed.child(arm), num_draws)) for arm in arms]


def _metrics(judged: Judged, arm: str, seed: Seed, num_draws: int) -> dict[str, float]:
    scores = [row for row in judged.scores if row.arm == arm]
    pairs = [row for row in judged.pairs if row.arm == arm]
    found: dict[str, float] = {}
    for aspect in PSC:
        rows = [row for row in scores if row.aspect == aspect]
        for of, these in _by_dimension(rows):
            found |= _of_scores(these, aspect, of, seed.child(f"{aspect}/{of}"), num_draws)
    for of, these in _by_dimension(pairs):
        found |= _of_pairs(these, of, seed.child(f"win_rate/{of}"), num_draws)
    found |= _bias(pairs, seed.child("position_bias"))
    return {f"evaluation/{name}": value for name, value in found.items() if math.isfinite(value)}


def _by_dimension(rows: Sequence[_Row]) -> Iterator[tuple[str, list[_Row]]]:
    """All rows, then those of each dimension that occurs."""
    if rows:
        yield ALL, list(rows)
    for dimension in DIMENSIONS:
        if these := [row for row in rows if row.dimension == dimension]:
            yield dimension, these


def _of_scores(
    rows: Sequence[ScoreRow], aspect: AspectName, of: str, seed: Seed, num_draws: int
) -> dict[str, float]:
    values = np.array([row.verdict.value for row in rows if row.verdict.failed is None])
    mean = float(values.mean()) if len(values) else math.nan
    ends = bootstrap(values, np.ones_like(values), seed.numpy(), num_draws=num_draws)
    best = float(sum(row.best for row in rows)) if len(values) else math.nan
    return {
        f"{PSC[aspect]}/{of}": best,
        f"{aspect}/{of}": mean,
        f"{aspect}_low/{of}": ends.low,
        f"{aspect}_high/{of}": ends.high,
        f"{aspect}_failed/{of}": float(len(rows) - len(values)),
    }


def _of_pairs(rows: Sequence[PairRow], of: str, seed: Seed, num_draws: int) -> dict[str, float]:
    found = win_rate([row.choice for row in rows], seed.numpy(), num_draws=num_draws)
    return {
        f"win_rate/{of}": found.rate,
        f"win_rate_low/{of}": found.wilson.low,
        f"win_rate_high/{of}": found.wilson.high,
        f"win_rate_bootstrap_low/{of}": found.bootstrap.low,
        f"win_rate_bootstrap_high/{of}": found.bootstrap.high,
        f"wins/{of}": float(found.wins),
        f"ties/{of}": float(found.ties),
        f"losses/{of}": float(found.losses),
        f"failed/{of}": float(found.failed),
        f"sign_p/{of}": found.sign_p,
    }


def _bias(pairs: Sequence[PairRow], seed: Seed) -> dict[str, float]:
    found = position_bias([row.outcome for row in pairs if row.outcome], seed.numpy())
    return {
        "position_bias": found.share,
        "position_bias_low": found.interval.low,
        "position_bias_high": found.interval.high,
    }
