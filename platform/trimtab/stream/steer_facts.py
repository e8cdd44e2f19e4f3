"""What is known of a steering sweep before a weight is read, and what is refused then.

Prompts are read, the judge's files, key or model and the rubrics are looked for, the chat template
is tried on every prompt, which must leave room for its answer, and the model is weighed on the meta
device. A nursery model that is yet to be trained is known by its recipe.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trimtab.core.errors import ModelError
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report
from trimtab.evaluation.decoding import DecodingConfig, question_tokens
from trimtab.evaluation.judged import EvaluationConfig
from trimtab.evaluation.judges.build import JudgeConfig
from trimtab.evaluation.judges.endpoint import HttpJudge, HttpJudgeConfig
from trimtab.evaluation.judges.local import LocalJudgeConfig, rendered
from trimtab.evaluation.judges.rubric import load_rubric
from trimtab.evaluation.judges.rule import RuleJudgeConfig, load_rules
from trimtab.evaluation.prompts import Question
from trimtab.models.card import ModelConfig
from trimtab.models.configs import config_of
from trimtab.models.hardware import Machine
from trimtab.models.loading import context_of, describe, read_config, read_tokenizer
from trimtab.models.nursery_fit import NurseryConfig, new_model
from trimtab.models.weights import Weights, weigh
from trimtab.stream import twins
from trimtab.stream.config import NURSERY, TWIN, ExtractJob
from trimtab.stream.machine import known_machine
from trimtab.stream.steer_coders import described, folders_of
from trimtab.stream.steer_config import SteerConfig
from trimtab.stream.steer_prompts import PromptSet, prompt_set
from trimtab.stream.tasks import resolved


class Facts(NamedTuple):
    """What is known before anything is loaded."""

    weights: Weights
    """What the model weighs, and its shape."""
    prompts: PromptSet
    """What is asked."""
    machine: Machine
    """What it would run on."""


def look(base: SteerConfig, out: Path) -> Facts:
    """Looks at all of it.

    Args:
        out: the folder of runs.

    Raises:
        TrimtabError: something is not there, or cannot be used.
    """
    check_judge(base.judge, base.evaluation)
    prompts = prompt_set(base, out)
    check_prompts(base.model, base.decoding, prompts.questions)
    with known_machine() as machine:
        return Facts(weights_of(base, out), prompts, machine)


def check_prompts(
    model: ModelConfig, decoding: DecodingConfig, questions: Sequence[Question]
) -> None:
    """Refuses prompts that a model cannot be asked, as far as it is known before it is made.

    Raises:
        ModelError: a chat template is asked for, and there is none.
        DataError: a prompt without a token, or one that fills the model's context.
    """
    if model.id == f"{NURSERY}base" and decoding.template == "chat":
        raise ModelError(
            "nursery:base has no chat template. Set `template: raw` (`--raw`) to give it the prompts "
            "as they are, or take nursery:instruct."
        )
    if not model.id.startswith((NURSERY, TWIN)):
        context = context_of(read_config(model))
        question_tokens(read_tokenizer(model), questions, decoding, context)


def width_of(trial: SteerConfig) -> int:
    """Latents of its coders."""
    if trial.coders.kind == "made":
        return trial.coders.train.coder.width
    return described(Path(folders_of(trial.coders, trial.layer)["aligned"])).width


def weights_of(base: SteerConfig, out: Path) -> Weights:
    """The model's shape and size; no weight is read, and only a twin is made."""
    name = base.model.id
    if name.startswith(NURSERY):
        made = NurseryConfig()
        return weigh(new_model(made, made.vocab_size, 0).config)
    (spec,) = twins.resolve((base.model,), out)
    return weigh(config_of(spec), spec.dtype)


def resolved_judge(judge: JudgeConfig, job: ExtractJob, report: Report) -> JudgeConfig:
    """A judge whose model is made if it is of the nursery or a twin, and whose cache has its full
    path: a trial's process may have begun in another folder, and would pay for every reply again.

    Raises:
        TrimtabError: as `resolved`.
    """
    match judge:
        case LocalJudgeConfig():
            (model,) = resolved((judge.model,), job, report)
            return judge.model_copy(update={"model": model})
        case HttpJudgeConfig():
            return judge.model_copy(update={"cache": judge.cache.resolve()})
        case RuleJudgeConfig():
            return judge


def check_judge(judge: JudgeConfig, evaluation: EvaluationConfig) -> list[str]:
    """Refuses a judge whose files, key or model are missing, or whose template knows no question.

    Returns:
        What changes when its model, its rules or a rubric does.

    Raises:
        TrimtabError: names what is missing.
    """
    match judge:
        case LocalJudgeConfig(model=model) if model.id.startswith((NURSERY, TWIN)):
            stamp = model.id  # made before it is asked, and looked at then
        case LocalJudgeConfig(model=model):
            card, tokenizer = describe(model)
            rendered(tokenizer, "a question")
            stamp = content_hash(card.identity)
        case HttpJudgeConfig():
            asked = HttpJudge(judge)
            asked.close()
            stamp = content_hash(asked.identity())
        case RuleJudgeConfig(rules=rules):
            stamp = load_rules(rules).hash
    named = [rubric for of in evaluation.aspects for rubric in (of.rubric, *of.rubric_in.values())]
    pairwise = evaluation.pairwise
    if pairwise is not None and pairwise != "scores":
        named.append(pairwise.rubric)
    return [stamp, *(load_rubric(name).hash for name in named)]
