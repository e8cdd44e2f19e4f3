"""How a model is asked and how it answers: one record of settings for every arm alike.

The released study decodes its baseline by other settings than its steered answers, which
confounds the two; here the settings stand in one record, and the baseline is an arm (METHODS 1.9).
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from jinja2 import TemplateError
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from transformers import PreTrainedTokenizerBase

from trimtab.core.config import Config
from trimtab.core.errors import DataError, ModelError
from trimtab.evaluation.prompts import Question

log = logging.getLogger(__name__)

FLAMES_SYSTEM = "你是一个乐于助人的助手。"


class DecodingConfig(Config):
    """Decoding settings, the same for all arms."""

    max_new_tokens: PositiveInt = 512
    """Longest answer, in tokens."""
    temperature: NonNegativeFloat = 0.7
    """Divides the logits before a token is drawn; 0 takes the likeliest token."""
    top_p: PositiveFloat = Field(default=0.9, le=1)
    """Draw among the likeliest tokens that together have this probability; 1 is all."""
    repetition_penalty: PositiveFloat = 1.1
    """Divides (if negative, multiplies) the logits of tokens that the prompt or the answer has."""
    seed: int = 0
    """Seed of the draws; each (prompt, arm) has a stream of its own below it."""
    template: Literal["chat", "raw"] = "chat"
    """The tokenizer's chat template, or the prompt as it is."""
    system: str = ""
    """System prompt; empty is none. Needs `template: chat`."""
    thinking: bool | None = None
    """Tells a chat template that knows it whether the model should think first; null leaves the
    template's own default."""

    @model_validator(mode="after")
    def _raw_is_bare(self) -> "DecodingConfig":
        if self.template == "raw" and (self.system or self.thinking is not None):
            raise ValueError("`system` and `thinking` need `template: chat`, but it is raw")
        return self

    @classmethod
    def flames(cls) -> "DecodingConfig":
        """The study's settings for steered answers, here for the baseline too (METHODS 1.9)."""
        return cls(system=FLAMES_SYSTEM)


def question_tokens(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    decoding: DecodingConfig,
    context: int | None,
) -> list[list[int]]:
    """Each question as the model reads it, with room for an answer behind it.

    Args:
        context: tokens that the model's positions were made for; None does not look.

    Raises:
        ModelError: as `prompt_tokens`.
        DataError: a question without a token, or with so many that it fills the context.
    """
    found = [prompt_tokens(tokenizer, question, decoding) for question in questions]
    for question, tokens in zip(questions, found, strict=True):
        if context is not None and len(tokens) >= context:
            raise DataError(
                f"A prompt must leave room for its answer, but {question.id!r} has {len(tokens):,} "
                f"tokens, and the model's context is {context:,}. Shorten it, or leave it out."
            )
    return found


def warn_of_length(
    prompts: Sequence[Sequence[int]], decoding: DecodingConfig, context: int | None
) -> None:
    """Says how many answers may run past the context; models with rotary positions go on, poorly."""
    if context is None:
        return
    most = decoding.max_new_tokens
    past = [len(tokens) for tokens in prompts if len(tokens) + most > context]
    if past:
        log.warning(
            "%d of %d prompts and `max_new_tokens` (%d) together pass the model's context of %d "
            "tokens: what is said beyond it may be poor. Lower `max_new_tokens` to %d, which fits.",
            len(past),
            len(prompts),
            most,
            context,
            context - max(past),
        )


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, question: Question, decoding: DecodingConfig
) -> list[int]:
    """A question as the model reads it, up to where its answer begins.

    Raises:
        ModelError: the model has no chat template, but one is asked for; or it refuses the prompt.
        DataError: the question has no token.
    """
    if decoding.template == "raw":
        tokens = tokenizer(question.prompt)["input_ids"]
    else:
        tokens = _templated(tokenizer, question.prompt, decoding)
    if not tokens:
        raise DataError(f"Prompt {question.id!r} has no token in this model's vocabulary.")
    return list(tokens)


def _templated(
    tokenizer: PreTrainedTokenizerBase, prompt: str, decoding: DecodingConfig
) -> list[int]:
    if not tokenizer.chat_template:
        raise ModelError(
            f"{tokenizer.name_or_path or 'This model'} has no chat template (a base model has "
            "none). Set `template: raw` (`--raw`) to give it the prompts as they are."
        )
    messages = [{"role": "system", "content": decoding.system}] if decoding.system else []
    messages.append({"role": "user", "content": prompt})
    options = {} if decoding.thinking is None else {"enable_thinking": decoding.thinking}
    advice = (
        'If it knows no system prompt, leave `system` empty (`--system ""`).'
        if decoding.system
        else "Set `template: raw` (`--raw`) to give it the prompts as they are."
    )
    text = chat_text(tokenizer, messages, options, advice)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def chat_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    options: dict[str, Any],
    advice: str,
) -> str:
    """What a chat template makes of messages, up to where the answer begins.

    Args:
        messages: a question, perhaps after a system prompt.
        options: what the template is told besides.
        advice: what to do where it refuses them.

    Raises:
        ModelError: the template refuses the messages.
    """
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **options
        )
    except TemplateError as error:
        name = tokenizer.name_or_path or "this model"
        asked = "a system prompt and a question" if len(messages) > 1 else "a lone question"
        raise ModelError(
            f"The chat template of {name} refuses {asked}: {error}. {advice}"
        ) from error
    return str(text)
