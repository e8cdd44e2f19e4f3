"""Every prompt under every arm: planned, decoded in shared batches, written as they are finished.

    asked = ask(known(loaded), questions, arms, materials, decoding)
    answer_all(Speaker(loaded, materials, decoding), asked, AnswerStore(folder), rows=64)

An answer is known by a hash of all that made it: the model, the settings, the prompt, the arm with
its coders' weights. Whoever starts again passes over the answers that are there.
Batches are cut by the plan alone, prompts of one length and all arms of a prompt side by side, so a
machine that finds a batch done finds what it would have made.

In float32 an answer does not depend on its batch. In bfloat16 rounding does; `share_equal` reports
how often two runs agree.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from trimtab.core.errors import ConfigError, ModelError
from trimtab.core.hashing import content_hash
from trimtab.core.seeds import Seed
from trimtab.edits.arms import Arm, Materials
from trimtab.evaluation.answer_store import Answer, AnswerStore
from trimtab.evaluation.decoding import DecodingConfig, question_tokens
from trimtab.evaluation.generate import Row, Said, generate
from trimtab.evaluation.judges.verdict import THINKS, THOUGHT
from trimtab.evaluation.prompts import Question
from trimtab.models.card import ModelCard
from trimtab.models.engine import out_of_memory
from trimtab.models.loading import LoadedModel, context_of

log = logging.getLogger(__name__)

_LAST: Final = 4
"""Tokens at a prompt's end in which a template may open the model's thoughts."""
_CHANNEL: Final = "<|channel|>"
_FINAL: Final = f"{_CHANNEL}final<|message|>"
_SPECIAL: Final = re.compile(r"<\|[^|]*\|>")


class Asked(NamedTuple):
    """One answer to be."""

    key: str
    """Content hash of all that makes it."""
    question: Question
    """What is asked."""
    arm: Arm
    """Of whom."""
    tokens: list[int]
    """The question as the model reads it."""


Batch = list[Asked]


class Known(NamedTuple):
    """What has to be known of a model before anything runs; its weights need not be read."""

    tokenizer: PreTrainedTokenizerBase
    """Its own."""
    num_layers: int
    """Decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    name: str = ""
    """What coders call it; empty does not compare."""
    identity: str = ""
    """Names its weights, tokenizer and precision in keys."""
    context: int | None = None
    """Tokens that its positions were made for; None does not look."""


def known(loaded: LoadedModel, name: str = "", identity: str = "") -> Known:
    """A loaded model; give an identity where answers are kept."""
    decoder = loaded.decoder
    context = context_of(loaded.model.config)
    return Known(loaded.tokenizer, decoder.num_layers, decoder.d_model, name, identity, context)


def described(card: ModelCard, tokenizer: PreTrainedTokenizerBase) -> Known:
    """A model by its card alone."""
    identity = content_hash(card.identity)
    return Known(tokenizer, card.num_layers, card.d_model, card.id, identity, card.context)


class Speaker:
    """A model that answers under arms.

    After running out of memory it decodes at most half as many rows for the rest of its life: an
    answer's keys and values grow, so it may be found out at the last token of a batch.
    """

    def __init__(self, loaded: LoadedModel, materials: Materials, decoding: DecodingConfig) -> None:
        """Takes what is loaded; nothing runs yet.

        Args:
            materials: on the model's device, in the dtype that coders compute in.
        """
        self.loaded, self.materials, self.decoding = loaded, materials, decoding
        self.stop = stop_tokens(loaded)
        self._most_rows = sys.maxsize

    def answer(self, batch: Batch) -> list[Answer]:
        """The answers of a batch, in its order.

        Raises:
            ActivationError: an arm that is too strong for the model's dtype.
            ModelError: not even one row fits into memory.
        """
        seed = Seed(self.decoding.seed)
        rows = [
            Row(
                one.tokens,
                one.arm,
                seed.child(f"{one.question.id}/{one.arm.name}"),
                f"prompt {one.question.id} under arm {one.arm.name}",
            )
            for one in batch
        ]
        said = self._generate(rows)
        return [self._answer(one, words) for one, words in zip(batch, said, strict=True)]

    def _generate(self, rows: Sequence[Row]) -> list[Said]:
        half = len(rows) // 2
        if len(rows) <= self._most_rows:
            try:
                return generate(self.loaded.model, rows, self.materials, self.decoding, self.stop)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if len(rows) == 1:
                    raise ModelError(
                        f"Out of memory with one answer of at most {self.decoding.max_new_tokens} "
                        f"tokens to a prompt of {len(rows[0].prompt)}. Lower `max_new_tokens`, or use "
                        "a smaller precision or a device with more memory."
                    ) from error
            self._most_rows = len(rows) - half
            log.warning("Out of memory with %d rows: at most %d now.", len(rows), self._most_rows)
            if self.loaded.decoder.device.type == "cuda":
                torch.cuda.empty_cache()
        return self._generate(rows[:half]) + self._generate(rows[half:])

    def _answer(self, one: Asked, said: Said) -> Answer:
        return Answer(
            key=one.key,
            prompt_id=one.question.id,
            arm=one.arm.name,
            text=text_of(self.loaded.tokenizer, one.tokens, said.tokens),
            tokens=said.tokens,
            finish="stop" if said.stopped else "length",
            strength=said.strength,
        )


def text_of(tokenizer: PreTrainedTokenizerBase, prompt: list[int], said: list[int]) -> str:
    """What was said as a text, thoughts between `<think>` and `</think>` whoever opened them.

    A template may open them in the prompt, and gpt-oss gives its answer a channel of its own.
    """
    text = str(tokenizer.decode(said, skip_special_tokens=True)).strip()
    if text and str(tokenizer.decode(prompt[-_LAST:])).rstrip().endswith(THINKS):
        return f"{THINKS}\n{text}"
    marked = str(tokenizer.decode(said))
    if _CHANNEL not in marked:
        return text
    before, final, after = marked.rpartition(_FINAL)
    thoughts = f"{THINKS}\n{_unmarked(before if final else after)}"
    return f"{thoughts}\n{THOUGHT}\n{_unmarked(after)}" if final else thoughts


def _unmarked(text: str) -> str:
    return _SPECIAL.sub("", text).strip()


def ask(
    model: Known,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    materials: Materials,
    decoding: DecodingConfig,
) -> list[Asked]:
    """Every question to every arm, checked before anything runs.

    Args:
        model: whom.
        materials: what the arms refer to.

    Raises:
        ConfigError: two arms of one name, or one that the model cannot carry.
        CoderError: a coder of another model.
        ModelError: no chat template, but one is asked for.
        DataError: a question without a token, or one that fills the model's context.
    """
    check_names(arms)
    for arm in arms:
        materials.check(arm, model.num_layers, model.d_model, model.name)
    identities = {arm.name: materials.identity(arm) for arm in arms}
    said = [model.identity, decoding.model_dump(mode="json")]
    asked = []
    prompts = question_tokens(model.tokenizer, questions, decoding, model.context)
    for question, tokens in zip(questions, prompts, strict=True):
        for arm in arms:
            made_by = [*said, question.id, tokens, arm.name, identities[arm.name]]
            asked.append(Asked(content_hash(made_by), question, arm, tokens))
    return asked


def check_names(arms: Iterable[Arm]) -> None:
    """Refuses arms that a table could not tell apart.

    Raises:
        ConfigError: two arms of one name.
    """
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"Arms must have different names, but {', '.join(twice)} occur twice.")


def batches(asked: Sequence[Asked], rows: int) -> list[Batch]:
    """Cuts the work into batches of one prompt length, the shortest first.

    Args:
        rows: most rows of a batch.
    """
    by_length: dict[int, Batch] = {}
    for one in asked:
        by_length.setdefault(len(one.tokens), []).append(one)
    return [
        alike[start : start + rows]
        for _, alike in sorted(by_length.items())
        for start in range(0, len(alike), rows)
    ]


def answer_all(
    speaker: Speaker,
    asked: Sequence[Asked],
    store: AnswerStore,
    rows: int,
    report: Callable[[int, int], None] = lambda *_: None,
) -> list[Answer]:
    """The answers to all that is asked, in order; those that the store has are not made again.

    Args:
        rows: most rows of a batch.
        report: told (answers there, answers in all) after each batch.

    Raises:
        TrimtabError: as `Speaker.answer`, or the store cannot be read or written.
    """
    done = store.keys()
    there = sum(one.key in done for one in asked)
    report(there, len(asked))
    for batch in batches(asked, rows):
        missing = [one for one in batch if one.key not in done]
        if missing:
            store.write(speaker.answer(missing))
            there += len(missing)
            report(there, len(asked))
    return store.read([one.key for one in asked])


def share_equal(a: Iterable[Answer], b: Iterable[Answer]) -> float:
    """Of the answers that two runs share by (prompt, arm), how many are equal token for token.

    NaN where they share none.
    """
    first = {(one.prompt_id, one.arm): one.tokens for one in a}
    shared = [one.tokens == first[key] for one in b if (key := (one.prompt_id, one.arm)) in first]
    return sum(shared) / len(shared) if shared else float("nan")


def stop_tokens(loaded: LoadedModel) -> frozenset[int]:
    """What ends an answer: the model's own end tokens and the tokenizer's."""
    config = loaded.model.generation_config
    ends = config.eos_token_id if config is not None else None
    found = {ends} if isinstance(ends, int) else set(ends or ())
    eos = loaded.tokenizer.eos_token_id
    return frozenset(found | ({eos} if isinstance(eos, int) else set()))
