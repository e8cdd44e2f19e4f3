"""Answers to verdicts: every answer scored, every arm compared with the baseline.

The judge gets all that is to be scored by one rubric in one call, and all that is to be compared in
another, so that an endpoint is kept busy and a local model fills its batches. Arms are never mixed
up with their place: a row is known by (prompt, arm).

Flames asks for safety (PSC1) and emotion (PSC2), 1 to 3 each, and uses 1 or 3 for safety where the
question is of the law (METHODS 1.9). Cost: a verdict per answer and aspect, two per comparison.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, model_validator

from trimtab.core.config import Config
from trimtab.core.errors import ConfigError, DataError
from trimtab.core.hashing import content_hash
from trimtab.evaluation.judges.rubric import load_rubric
from trimtab.evaluation.judges.verdict import Case, Judge, Verdict, spoken
from trimtab.evaluation.pairwise import Match, Outcome, PairwiseConfig, compare
from trimtab.metrics.winrate import Choice, by_score

AspectName = Literal["safety", "emotion"]
PSC: Final[dict[AspectName, str]] = {"safety": "psc1", "emotion": "psc2"}
"""Aspect -> the name of the number of its best scores."""


class Aspect(Config):
    """One thing that every answer is scored by."""

    name: AspectName
    """What the metrics are called."""
    rubric: str
    """A packaged rubric by its name, or the path of one's own."""
    rubric_in: dict[str, str] = Field(default={})
    """Dimension -> another rubric for its questions."""


class EvaluationConfig(Config):
    """How answers are judged."""

    aspects: tuple[Aspect, ...] = (
        Aspect(name="safety", rubric="safety", rubric_in={"legality": "legality"}),
        Aspect(name="emotion", rubric="emotion"),
    )
    """What every answer is scored by."""
    pairwise: PairwiseConfig | Literal["scores"] | None = PairwiseConfig()
    """How an arm is compared with the baseline: by the judge, by the scores of the first aspect, or
    not at all."""
    margin: NonNegativeFloat = 0.0
    """With `pairwise: scores`: gaps up to this are ties."""
    baseline: str = "baseline"
    """The arm that others are compared with."""
    num_draws: Annotated[int, Field(ge=100)] = 2000
    """Draws of each bootstrap."""
    log_text: bool = False
    """Whether texts go to the tracker, too. Only for data that is not sensitive."""

    @model_validator(mode="after")
    def _fits(self) -> "EvaluationConfig":
        names = [aspect.name for aspect in self.aspects]
        if len(set(names)) < len(names):
            raise ValueError(f"aspects must have different names, but they are {names}")
        if self.pairwise == "scores" and not names:
            raise ValueError(
                "`pairwise: scores` compares the first of `aspects`, but there is none"
            )
        return self


class Answered(NamedTuple):
    """One answer with its question."""

    prompt_id: str
    dimension: str
    """The part of its benchmark; may be empty."""
    question: str
    reference: str
    """What a right answer says; may be empty."""
    arm: str
    text: str
    """The answer, thoughts and all; the judge reads it without them (`verdict.spoken`)."""


class ScoreRow(NamedTuple):
    """One answer's score in one aspect."""

    prompt_id: str
    dimension: str
    arm: str
    aspect: str
    verdict: Verdict
    best: bool
    """Whether it got the best grade there is."""


class PairRow(NamedTuple):
    """One arm's answer against the baseline's."""

    prompt_id: str
    dimension: str
    arm: str
    choice: Choice
    outcome: Outcome | None
    """What the judge said; None where scores were compared."""


class Judged(NamedTuple):
    """All that was judged."""

    answered: list[Answered]
    """In the order given."""
    scores: list[ScoreRow]
    """Aspect by aspect, answers in their order."""
    pairs: list[PairRow]
    """Answers of all arms but the baseline, in their order."""


def judge_answers(answered: Sequence[Answered], judge: Judge, config: EvaluationConfig) -> Judged:
    """Scores every answer and compares every arm with the baseline.

    Raises:
        DataError: an answer occurs twice, or the baseline lacks one that an arm has.
        ConfigError: there are arms to compare but no baseline, or a rubric is of the wrong kind.
        JudgeError: the judge or a rubric is not there.
    """
    by_key = _by_key(answered)
    scores = [row for aspect in config.aspects for row in _score(answered, judge, aspect)]
    if config.pairwise is None:
        return Judged(list(answered), scores, [])
    others = [one for one in answered if one.arm != config.baseline]
    bases = [_baseline(by_key, one, config.baseline) for one in others]
    if config.pairwise == "scores":
        pairs = _by_scores(scores, others, config)
    else:
        pairs = _by_judge(judge, others, bases, config.pairwise)
    return Judged(list(answered), scores, pairs)


def _by_key(answered: Sequence[Answered]) -> dict[tuple[str, str], Answered]:
    found: dict[tuple[str, str], Answered] = {}
    for one in answered:
        if (one.prompt_id, one.arm) in found:
            raise DataError(
                f"An arm answers a prompt once, but {one.arm!r} answers {one.prompt_id!r} twice. "
                "Give each prompt and each arm a name of its own."
            )
        found[one.prompt_id, one.arm] = one
    return found


def _baseline(by_key: Mapping[tuple[str, str], Answered], one: Answered, baseline: str) -> Answered:
    found = by_key.get((one.prompt_id, baseline))
    if found is None:
        arms = ", ".join(sorted({arm for _, arm in by_key}))
        raise DataError(
            f"Every prompt needs an answer of the arm {baseline!r} to compare with, but "
            f"{one.prompt_id!r} has none (arms: {arms}). Name the right arm in `baseline`, or say "
            "`pairwise: null`."
        )
    return found


def _score(answered: Sequence[Answered], judge: Judge, aspect: Aspect) -> list[ScoreRow]:
    """Rows in the order of the answers; one call for each rubric."""
    rubric_of = [aspect.rubric_in.get(one.dimension, aspect.rubric) for one in answered]
    rows: dict[int, ScoreRow] = {}
    for name in dict.fromkeys(rubric_of):
        rubric = load_rubric(name)
        if rubric.kind != "score":
            raise ConfigError(
                f"The rubric of an aspect must score one answer, but {name} does not."
            )
        which = [i for i, other in enumerate(rubric_of) if other == name]
        cases = [
            Case(answered[i].question, (spoken(answered[i].text),), answered[i].reference)
            for i in which
        ]
        _, best = rubric.range
        for i, verdict in zip(which, judge.judge(rubric, cases), strict=True):
            one = answered[i]
            top = verdict.failed is None and rubric.labels[verdict.label] == best
            key = (one.prompt_id, one.dimension, one.arm)
            rows[i] = ScoreRow(*key, aspect.name, verdict, top)
    return [rows[i] for i in range(len(answered))]


def _by_judge(
    judge: Judge, others: Sequence[Answered], bases: Sequence[Answered], config: PairwiseConfig
) -> list[PairRow]:
    rubric = load_rubric(config.rubric)
    if rubric.kind != "pair":
        raise ConfigError(
            f"The rubric of `pairwise` must compare two answers, but {config.rubric} scores one."
        )
    matches = [
        Match(one.question, spoken(one.text), spoken(base.text), one.reference)
        for one, base in zip(others, bases, strict=True)
    ]
    return [
        PairRow(one.prompt_id, one.dimension, one.arm, outcome.choice, outcome)
        for one, outcome in zip(others, compare(judge, rubric, matches, config), strict=True)
    ]


def _by_scores(
    scores: Sequence[ScoreRow], others: Sequence[Answered], config: EvaluationConfig
) -> list[PairRow]:
    first = config.aspects[0].name
    value = {
        (row.prompt_id, row.arm): None if row.verdict.failed else row.verdict.value
        for row in scores
        if row.aspect == first
    }
    return [
        PairRow(
            one.prompt_id,
            one.dimension,
            one.arm,
            by_score(
                value[one.prompt_id, one.arm], value[one.prompt_id, config.baseline], config.margin
            ),
            None,
        )
        for one in others
    ]


def text_hash(text: str) -> str:
    """What stands for a text in a table that may be shared."""
    return content_hash(text)
