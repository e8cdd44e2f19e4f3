"""How a model is asked and how it answers: one record of settings for every arm alike.

The released study decodes its baseline by other settings than its steered answers, which
confounds the two; here the settings stand in one record, and the baseline is an arm (METHODS 1.9).
"""

from typing import Any, Literal

from jinja2 import TemplateError
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from transformers import PreTrainedTokenizerBase

from trimtab.core.config import Config
from trimtab.core.errors import DataError, ModelError
from trimtab.evaluation.prompts import Question

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
    options: dict[str, Any] = {}
    if decoding.thinking is not None:
        options["enable_thinking"] = decoding.thinking
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **options
        )
    except TemplateError as error:
        raise _refused(tokenizer, decoding, error) from error
    return tokenizer(str(text), add_special_tokens=False)["input_ids"]


def _refused(
    tokenizer: PreTrainedTokenizerBase, decoding: DecodingConfig, error: TemplateError
) -> ModelError:
    name = tokenizer.name_or_path or "this model"
    if decoding.system:
        return ModelError(
            f"The chat template of {name} refuses a system prompt and a question: {error}. If it "
            'knows no system prompt, leave `system` empty (`--system ""`).'
        )
    return ModelError(
        f"The chat template of {name} refuses a lone question: {error}. Set `template: raw` "
        "(`--raw`) to give it the prompts as they are."
    )
