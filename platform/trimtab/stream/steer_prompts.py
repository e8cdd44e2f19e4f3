"""The prompts of a steering sweep: which, in which order, and which half each belongs to.

Prompts are drawn in an order of their own seed, so that the first rung is a sample of all. Along
that order they alternate between two halves: on one the best strength is chosen, on the other it
is scored, and at every rung both have as many prompts, give or take one.

Nursery questions are about actions of the split asked for that no training row has; the reference
is what the nursery's instruct was taught to say of such a verdict.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from trimtab.core.errors import ConfigError
from trimtab.core.hashing import content_hash
from trimtab.core.seeds import Seed
from trimtab.evaluation.flames import PUBLISHED, flames
from trimtab.evaluation.prompts import Question, read_questions
from trimtab.models.nursery_text import ANSWERS, QUESTIONS
from trimtab.stream.config import CORPUS, DataConfig, Split
from trimtab.stream.nursery import rows_of
from trimtab.stream.steer_config import (
    FilePrompts,
    FlamesPrompts,
    NurseryPrompts,
    Prompts,
    SteerConfig,
)


class PromptSet(NamedTuple):
    """The prompts of a sweep, in the order in which they are asked."""

    questions: list[Question]
    """As many as the last rung."""
    choosing: Bool[np.ndarray, " prompts"]
    """Which of them the best strength is chosen on; the others score it."""
    name: str
    """What the data set is called."""
    source: str
    """Where it is."""
    available: int
    """How many there were to draw from."""

    @property
    def digest(self) -> str:
        """Content hash of what is asked, and in which order."""
        return content_hash([question._asdict() for question in self.questions])


def prompt_set(config: SteerConfig, out: Path) -> PromptSet:
    """The prompts that a trial asks.

    Args:
        out: the folder of runs.

    Raises:
        DataError: the file cannot be read, or a line of it is not a prompt.
        ConfigError: fewer prompts than the last rung asks for.
    """
    found = read_prompts(config.prompts, config.data, out)
    most = config.rungs[-1]
    name, source = name_of(config.prompts), source_of(config.prompts)
    if len(found) < most:
        raise ConfigError(
            f"`rungs` must not ask for more prompts than there are, but the last one is {most} and "
            f"{name} has {len(found)}. Lower it."
        )
    order = Seed(config.seed).child("prompts").numpy().permutation(len(found))[:most]
    chosen = [found[i] for i in order]
    return PromptSet(chosen, np.arange(most) % 2 == 0, name, source, len(found))


def name_of(prompts: Prompts) -> str:
    """What a data set of prompts is called."""
    match prompts:
        case NurseryPrompts(split=split):
            return f"nursery questions ({split})"
        case FilePrompts(path=path):
            return path.stem
        case FlamesPrompts():
            return "flames"


def source_of(prompts: Prompts) -> str:
    """Where prompts are."""
    return CORPUS if prompts.kind == "nursery" else str(prompts.path or PUBLISHED)


def read_prompts(prompts: Prompts, data: DataConfig, out: Path) -> list[Question]:
    """All prompts, in the order of their file.

    Args:
        data: how the corpus is split, for nursery questions.
        out: the folder of runs.

    Raises:
        DataError: the file cannot be read, or a line of it is not a prompt.
    """
    match prompts:
        case NurseryPrompts(split=split):
            return nursery_questions(data, split, out)
        case FilePrompts(path=path):
            return read_questions(path)
        case FlamesPrompts(path=path):
            return flames(path, out / "flames")


def nursery_questions(data: DataConfig, split: Split, out: Path) -> list[Question]:
    """A question about each distinct action of a split, with the answer that people would give."""
    seen = {row.action for row in rows_of("train", data, out)} if split != "train" else set()
    rows = {row.action: row for row in rows_of(split, data, out)}
    return [
        Question(str(number), f"{QUESTIONS[0]} {action}", reference=ANSWERS[row.grade])
        for number, (action, row) in enumerate(rows.items())
        if action not in seen
    ]
