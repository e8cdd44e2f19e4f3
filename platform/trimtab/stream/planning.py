"""`trimtab plan`: what each model would take, from its configuration and the texts, no weight read.

Tokens are counted by a model's own tokenizer where this machine has it. Where it has not, a word is
worth 1.4 tokens: the 17,646 prompts of our development file have 8.6 words (counted), and a prompt
about 12 tokens (the design's figure; the tokenizers of the 23 were not to be had to count them).
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from trimtab.core.errors import ModelError
from trimtab.models.card import ModelConfig
from trimtab.models.configs import config_of, local_folder
from trimtab.models.cost import Work
from trimtab.models.hardware import Machine
from trimtab.models.loading import read_tokenizer
from trimtab.models.plan import ModelPlan, place
from trimtab.models.weights import Weights, weigh_all
from trimtab.scenarios.prompts import prompts
from trimtab.stream.blocks import distinct
from trimtab.stream.config import DataConfig
from trimtab.stream.scenarios import read

TOKENS_PER_WORD: Final = 1.4
TOKENS_PER_PROMPT: Final = 12
SUBSET_ROWS: Final = 16_315
"""METHODS 1.2: the diagnosis subset of the published file."""


class Texts(NamedTuple):
    """What all models read."""

    texts: list[str]
    """Distinct prompts; empty where only their number is known."""
    prompts: int
    """How many there are."""
    rows: int
    """Scenarios that ask them."""


PUBLISHED: Final = Texts([], SUBSET_ROWS, SUBSET_ROWS)
"""The published file's subset, as if no two rows shared a prompt."""


class Planned(NamedTuple):
    """One model's forecast."""

    spec: ModelConfig
    """What was asked for."""
    weights: Weights
    """What it weighs."""
    work: Work
    """What it reads."""
    tokens_from: str
    """How its tokens were counted."""
    plan: ModelPlan | None
    """How it runs; None where it cannot."""
    error: str
    """What it lacks; empty where it runs."""


def texts_of(data: DataConfig) -> Texts:
    """The distinct prompts of a data file or prepared folder.

    Raises:
        DataError: the data is not what it should be.
    """
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
        table = read(data, Path(folder)).table
    found = prompts(table["action"], data.prompt)
    first, _ = distinct(found)
    return Texts([found[i] for i in first], len(first), len(found))


def plan_models(
    specs: Sequence[ModelConfig], machine: Machine, texts: Texts, token_budget: int
) -> list[Planned]:
    """The forecast of each model.

    Args:
        specs: the models.
        machine: what they run on, one after another.
        texts: what they read.
        token_budget: most tokens of one batch.

    Raises:
        ModelError: a model cannot be found or understood.
    """
    configs = [config_of(spec) for spec in specs]
    planned = []
    for spec, weights in zip(specs, weigh_all(configs), strict=True):
        tokens, how = count_tokens(spec, texts)
        work = Work(texts.prompts, tokens, texts.rows, token_budget=token_budget)
        planned.append(_planned(spec, weights, work, how, machine))
    return planned


def count_tokens(spec: ModelConfig, texts: Texts) -> tuple[int, str]:
    """Tokens of the prompts for a model, and how they were counted."""
    if not texts.texts:
        return TOKENS_PER_PROMPT * texts.prompts, f"{TOKENS_PER_PROMPT} a prompt"
    folder = local_folder(spec)
    if folder is not None:
        try:
            tokenizer = read_tokenizer(spec.model_copy(update={"id": str(folder)}))
        except ModelError:  # a configuration without its tokenizer is enough for a plan
            pass
        else:
            return sum(map(len, tokenizer(texts.texts)["input_ids"])), "its tokenizer"
    words = sum(len(text.split()) for text in texts.texts)
    return round(TOKENS_PER_WORD * words), f"{TOKENS_PER_WORD} a word"


def _planned(
    spec: ModelConfig, weights: Weights, work: Work, how: str, machine: Machine
) -> Planned:
    try:
        plan = place(
            weights,
            work,
            machine,
            precision=spec.precision,
            source=spec.source,
            num_gpus=spec.num_gpus,
            name=spec.label,
        )
    except ModelError as error:
        return Planned(spec, weights, work, how, None, str(error))
    return Planned(spec, weights, work, how, plan, "")
