"""What a layer's arms come to: each arm against the unedited model, and which strength is best.

The best strength is that of the aligned blend with the highest net rate, (wins - losses) / judged,
on half of the prompts; what is said of it is measured on the other half. Net and not the win rate
chooses, because an edit that is strong enough to scramble answers wins some by chance and loses
more. The win rate (wins / judged, METHODS 1.9) is reported beside it everywhere.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from trimtab.core.errors import JudgeError
from trimtab.core.seeds import Seed
from trimtab.edits.arms import BASELINE
from trimtab.evaluation.answer_store import Answer
from trimtab.evaluation.fluency import fluency
from trimtab.evaluation.judged import Judged, PairRow
from trimtab.evaluation.judges.verdict import spoken
from trimtab.evaluation.summary import summarise
from trimtab.metrics.intervals import Interval, bootstrap
from trimtab.metrics.winrate import CHOICES, Choice, win_rate
from trimtab.stream.steer_arms import Told

AT: Final = "@"
"""Between a measure and an arm in the names of scores: `net@aligned 0.1`."""
_SHOWN: Final = {
    "win_rate": "evaluation/win_rate/all",
    "win_rate_low": "evaluation/win_rate_low/all",
    "win_rate_high": "evaluation/win_rate_high/all",
    "net": "steer/net",
    "net_low": "steer/net_low",
    "net_high": "steer/net_high",
    "failed": "evaluation/failed/all",
    "perplexity": "fluency/perplexity",
    "repetition": "fluency/repetition",
    "strength": "steer/strength",
}
"""Measure -> the metric of an arm that it repeats among the scores of the whole trial."""

Metrics = dict[str, float]


class Given(NamedTuple):
    """All that a trial has heard so far."""

    answers: list[Answer]
    """Of every arm to every prompt asked so far."""
    nll: dict[tuple[str, str], float]
    """(prompt, arm) -> negative log-likelihood of the answer under the unedited model, nats."""
    judged: Judged
    """What the judge made of them."""


class Net(NamedTuple):
    """Wins less losses."""

    rate: float
    """(wins - losses) / judged; NaN where nothing was judged."""
    interval: Interval
    """Bootstrap over prompts."""


def net_rate(choices: Sequence[Choice], rng: np.random.Generator, num_draws: int) -> Net:
    """How much more often an arm wins than it loses; failures are left out."""
    gaps = np.array([float((c == "win") - (c == "lose")) for c in choices if c != "failed"])
    rate = float(gaps.mean()) if len(gaps) else math.nan
    return Net(rate, bootstrap(gaps, np.ones_like(gaps), rng, num_draws=num_draws))


def by_arm(given: Given, seed: Seed, num_draws: int) -> dict[str, Metrics]:
    """Every arm's metrics by its name; what is undefined is left out."""
    found: dict[str, Metrics] = {}
    for summary in summarise(given.judged, seed, num_draws):
        answers = [answer for answer in given.answers if answer.arm == summary.arm]
        metrics = summary.metrics | _fluency(answers, given.nll)
        metrics |= of_arm(summary.arm, answers, given.judged.pairs, seed, num_draws)
        found[summary.arm] = {name: v for name, v in metrics.items() if math.isfinite(v)}
    return found


def of_arm(
    arm: str, answers: Sequence[Answer], pairs: Sequence[PairRow], seed: Seed, num_draws: int
) -> Metrics:
    """Prompts of an arm, and of an edited one its strength and net rate; what is defined.

    Args:
        answers: the arm's own.
        pairs: of all arms.
    """
    found = {"steer/prompts": float(len(answers))}
    if arm != BASELINE.name:
        found["steer/strength"] = float(np.mean([answer.strength for answer in answers]))
        choices = _choices(row for row in pairs if row.arm == arm)
        net = net_rate(choices, seed.child(f"{arm}/net").numpy(), num_draws)
        found |= {"steer/net": net.rate} | _ends("steer/net", net.interval)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def best(
    pairs: Sequence[PairRow],
    told: Mapping[str, Told],
    choosing: Collection[str],
    seed: Seed,
    num_draws: int,
) -> tuple[float, Metrics]:
    """The best strength of the aligned blend, and what both halves say of it.

    Args:
        told: what each arm is.
        choosing: ids of the prompts that choose; the others score.

    Raises:
        JudgeError: one of the halves has no verdict on any aligned answer.
    """
    nets: dict[str, float] = {}
    for name, arm in sorted(told.items(), key=lambda item: abs(item[1].alpha)):
        if arm.kind == "aligned":
            rows = (row for row in pairs if row.arm == name and row.prompt_id in choosing)
            nets[name] = net_rate(_choices(rows), seed.numpy(), num_draws).rate
    known = {name: net for name, net in nets.items() if math.isfinite(net)}
    if not known:
        raise _no_verdict("the half that chooses", pairs)
    chosen = max(known, key=lambda name: known[name])
    of_best = [row for row in pairs if row.arm == chosen]
    halves = {
        "chosen": _choices(row for row in of_best if row.prompt_id in choosing),
        "held_out": _choices(row for row in of_best if row.prompt_id not in choosing),
    }
    found: Metrics = {"steer/best_alpha": told[chosen].alpha}
    for half, choices in halves.items():
        found |= _half(f"steer/{half}", choices, seed.child(half), num_draws)
    if "steer/held_out/net" not in found:
        raise _no_verdict("the half that scores", pairs)
    return told[chosen].alpha, found


def scores_of(arms: Mapping[str, Metrics], told: Mapping[str, Told]) -> Metrics:
    """What the table of trials shows of every arm: `net@aligned 0.1`, ..."""
    return {
        f"{measure}{AT}{arm}": arms[arm][metric]
        for arm in told
        for measure, metric in _SHOWN.items()
        if arm in arms and metric in arms[arm]
    }


def held_out(
    pairs: Sequence[PairRow], choosing: Collection[str], seed: Seed, num_draws: int
) -> Metrics:
    """Every arm on the half that scores, in the same manner: `held_out_net@unaligned 0.1`, ..."""
    found: Metrics = {}
    for arm in dict.fromkeys(row.arm for row in pairs):
        choices = _choices(r for r in pairs if r.arm == arm and r.prompt_id not in choosing)
        half = _half("held_out", choices, seed.child(f"held out/{arm}"), num_draws)
        found |= {f"{name.replace('/', '_')}{AT}{arm}": value for name, value in half.items()}
    return found


def _choices(rows: Iterable[PairRow]) -> list[Choice]:
    return [row.choice for row in rows]


def _half(prefix: str, choices: Sequence[Choice], seed: Seed, num_draws: int) -> Metrics:
    net = net_rate(choices, seed.child("net").numpy(), num_draws)
    won = win_rate(choices, seed.child("win_rate").numpy(), num_draws=num_draws)
    found = {f"{prefix}/prompts": float(len(choices)), f"{prefix}/net": net.rate}
    found |= _ends(f"{prefix}/net", net.interval) | {f"{prefix}/win_rate": won.rate}
    found |= _ends(f"{prefix}/win_rate", won.wilson)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _ends(name: str, interval: Interval) -> Metrics:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high}


def _fluency(answers: Sequence[Answer], nll: Mapping[tuple[str, str], float]) -> Metrics:
    return fluency(
        [answer.tokens for answer in answers],
        np.array([nll[answer.prompt_id, answer.arm] for answer in answers]),
        [not spoken(answer.text) for answer in answers],
        [answer.finish == "length" for answer in answers],
    ).metrics


def _no_verdict(half: str, pairs: Sequence[PairRow]) -> JudgeError:
    counted = {kind: sum(row.choice == kind for row in pairs) for kind in CHOICES}
    why = next((row.outcome.failed for row in pairs if row.outcome and row.outcome.failed), "")
    return JudgeError(
        f"The judge gave no verdict on any aligned answer in {half} of the prompts (in all: "
        f"{counted}{'; the first failure: ' + why if why else ''}). Failures are no ties: look at "
        "`failed` in its table, and check the judge and its rubric."
    )
