"""From answers to numbers, in one call: verdicts, fluency, tables, a summary for each arm.

    answers = answer_all(speaker, asked, store, rows)
    found = evaluate(questions, answers, judge, plain, config, seed, folder)

Every arm gets both: what the judge makes of its answers, and how they read under the unedited
model. Neither says enough alone. Cost: the judge's, and a forward pass over prompts and answers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trimtab.core.errors import DataError
from trimtab.core.seeds import Seed
from trimtab.evaluation.answer_store import Answer
from trimtab.evaluation.decoding import DecodingConfig, prompt_tokens
from trimtab.evaluation.fluency import Fluency, answer_nll, fluency
from trimtab.evaluation.judged import Answered, EvaluationConfig, Judged, judge_answers
from trimtab.evaluation.judges.verdict import Judge, spoken
from trimtab.evaluation.prompts import Question
from trimtab.evaluation.summary import ArmSummary, summarise
from trimtab.evaluation.tables import TableFiles, write_tables
from trimtab.models.loading import LoadedModel


class Plain(NamedTuple):
    """The model without an edit, and how it was asked."""

    loaded: LoadedModel
    """No edit may be on it while answers are measured."""
    decoding: DecodingConfig
    """The settings that the answers were made with."""
    token_budget: int = 2048
    """Most tokens in one forward pass; raised to the longest prompt with its answer."""


class Evaluation(NamedTuple):
    """What came of some answers."""

    arms: list[ArmSummary]
    """Verdicts and fluency of each arm, in the order in which arms first occur."""
    files: TableFiles
    """The tables."""
    judged: Judged
    """Every verdict."""


def evaluate(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    judge: Judge,
    plain: Plain,
    config: EvaluationConfig,
    seed: Seed,
    folder: Path,
) -> Evaluation:
    """Judges answers, measures how they read, and writes the tables.

    Args:
        questions: at least those that were answered.
        folder: where the tables go.

    Raises:
        DataError: an answer to a question that is not there, or as `judge_answers`.
        JudgeError: the judge cannot be asked.
        OutputError: the folder cannot be written to.
    """
    by_id = {question.id: question for question in questions}
    if unknown := sorted({a.prompt_id for a in answers} - by_id.keys()):
        raise DataError(
            f"Every answer needs its question, but {len(unknown)} have none, {unknown[0]!r} among "
            "them. Give the prompts that the answers were made with."
        )
    judged = judge_answers([_answered(by_id[a.prompt_id], a) for a in answers], judge, config)
    files = write_tables(judged, folder)
    read = fluency_by_arm(by_id, answers, plain)
    arms = [
        ArmSummary(arm, metrics | read[arm].metrics)
        for arm, metrics in summarise(judged, seed, config.num_draws)
    ]
    return Evaluation(arms, files, judged)


def fluency_by_arm(
    questions: dict[str, Question], answers: Sequence[Answer], plain: Plain
) -> dict[str, Fluency]:
    """How the answers of each arm read under the unedited model."""
    tokenizer = plain.loaded.tokenizer
    asked = {
        name: prompt_tokens(tokenizer, questions[name], plain.decoding)
        for name in {answer.prompt_id for answer in answers}
    }
    prompts = [asked[answer.prompt_id] for answer in answers]
    longest = max(
        (len(p) + len(a.tokens) for p, a in zip(prompts, answers, strict=True)), default=1
    )
    nll = answer_nll(
        plain.loaded.model,
        prompts,
        [answer.tokens for answer in answers],
        max(plain.token_budget, longest),
    )
    found = {}
    for arm in dict.fromkeys(answer.arm for answer in answers):
        which = [i for i, answer in enumerate(answers) if answer.arm == arm]
        these = [answers[i] for i in which]
        found[arm] = fluency(
            [answer.tokens for answer in these],
            nll[which],
            [not spoken(answer.text) for answer in these],
            [answer.finish == "length" for answer in these],
        )
    return found


def _answered(question: Question, answer: Answer) -> Answered:
    return Answered(
        question.id,
        question.dimension,
        question.prompt,
        question.reference,
        answer.arm,
        answer.text,
    )
