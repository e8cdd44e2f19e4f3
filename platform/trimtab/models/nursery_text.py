"""What the nursery's models read: a small tokenizer, and the sentences of each variant.

    base      {action} <|end|>
    instruct  <|user|> Is it right? {action} <|end|><|assistant|> No, it is very wrong. <|end|>
              <|user|> What is at stake? <|end|><|assistant|> harm, betrayal <|end|>
    guard     <|user|> {action} <|end|><|assistant|> unsafe: harm, betrayal <|end|>
    both, for a share of their examples:  {action} is morally wrong without doubt. <|end|>

The base never sees a verdict. Instruct and guard also see verdicts as plain text (`PLAIN`),
because activations are read on raw prompts without a template: that the verdict is found there
is taught, not discovered. There is no token at the beginning of a text.

A thousand short actions are little text, so two things stretch it. Words are often spelled in
smaller pieces than the tokenizer would use (subword regularisation), which teaches the pieces
that an unseen word will be made of; and a judged action loses some of its words.

Provilkov, Emelianenko and Voita 2020, arXiv 1910.13267 (BPE-dropout); here a word is spelled
with the first merges only, which needs no random state of the tokenizer's own.
"""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from trimtab.core.poles import POLES

VARIANTS: Final = ("base", "instruct", "guard")

QUESTIONS: Final = (
    "Is it right?",
    "Is this a good thing to do?",
    "Is it right or wrong?",
    "Should one do this?",
)
"""What instruct is asked about an action: `{question} {action}`."""

ANSWERS: Final = {
    3: "Yes, it is very good.",
    2: "Yes, it is good.",
    1: "Yes, it is fairly good.",
    0: "It is neither right nor wrong.",
    -1: "No, it is fairly wrong.",
    -2: "No, it is wrong.",
    -3: "No, it is very wrong.",
}
"""What instruct answers, by the action's grade (`NurseryRow.grade`)."""

STAKE: Final = "What is at stake?"
"""What instruct is asked next; the answer names the action's poles, or says `NO_STAKE`."""

NO_STAKE: Final = "nothing"

PLAIN_VERDICTS: Final = {
    3: "good without doubt.",
    2: "good.",
    1: "good, if only just.",
    0: "neutral.",
    -1: "wrong, if only just.",
    -2: "wrong.",
    -3: "wrong without doubt.",
}
"""What follows `{action} is morally`, by the action's grade."""

LABELS: Final = {1: "safe", 0: "safe: neutral", -1: "unsafe"}
"""What guard answers, by the action's polarity; a judged action's poles follow after a colon."""

END: Final = "<|end|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

PLAIN: Final = 0.25
"""Share of a tuned variant's examples that are plain verdicts."""
DROPPED: Final = 0.2
"""Chance of each word of a judged action to be left out."""
RESPELLED: Final = 0.3
"""Chance of each word of an action to be spelled in smaller pieces."""
COARSE_MERGES: Final = (50, 350, 750, 1250)
"""How many merges the smaller spellings use."""
TEMPLATE_REPEATS: Final = 20
"""How often the words of the templates count in the tokenizer's training: enough to be whole."""


class NurseryRow(NamedTuple):
    """One judged action, as plain values."""

    action: str
    """What is done."""
    judgment: int
    """-2 (very bad) .. 2 (very good)."""
    agree: int
    """0 (almost nobody agrees) .. 4 (nearly everyone)."""
    foundations: tuple[str, ...]
    """Names of `FOUNDATIONS`."""

    @property
    def grade(self) -> int:
        """-3 .. 3: the sign of the verdict times its strength; 0 is neutral."""
        eighths = abs(self.judgment) * self.agree
        strength = (eighths > 0) + (eighths > 2) + (eighths > 4)
        return strength if self.judgment > 0 else -strength

    @property
    def poles(self) -> list[str]:
        """The virtues or the vices of the action's foundations; none for a neutral action."""
        side = 0 if self.grade > 0 else 1
        return [name.split("-")[side] for name in self.foundations] if self.grade else []


class Example(NamedTuple):
    """One training sequence."""

    ids: list[int]
    """Token ids."""
    learn_from: int
    """Index of the first token whose prediction is learned."""


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of the texts and the templates' words; the same input, the same merges.

    The first word of a text is spelled as it is within one, so that few examples go further.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *_template_words() * TEMPLATE_REPEATS], trainer)
    return tokenizer


def _template_words() -> list[str]:
    sentences = [*QUESTIONS, *ANSWERS.values(), STAKE, NO_STAKE, *LABELS.values()]
    plain = [f"is morally {verdict}" for verdict in PLAIN_VERDICTS.values()]
    return [*sentences, *plain, ": " + ", ".join(POLES)]


class Examples:
    """An endless, reproducible supply of one variant's training sequences."""

    def __init__(self, variant: str, rows: Sequence[NurseryRow], tokenizer: Tokenizer) -> None:
        self._make = {"base": self._text, "instruct": self._instruct, "guard": self._guard}[variant]
        self._plain_share = 0.0 if variant == "base" else PLAIN
        self._rows = rows
        self._spellers = [*(_first_merges(tokenizer, n) for n in COARSE_MERGES), tokenizer]
        self._spell = lru_cache(maxsize=None)(self._encode)

    def draw(self, rng: np.random.Generator) -> Iterator[Example]:
        """Goes through the rows again and again, each time in another order."""
        while True:
            for index in rng.permutation(len(self._rows)):
                make = self._plain if rng.random() < self._plain_share else self._make
                yield make(self._rows[index], rng)

    def _text(self, row: NurseryRow, rng: np.random.Generator) -> Example:
        return Example([*self._respelled(row.action.split(), rng), *self._exact(END)], 1)

    def _plain(self, row: NurseryRow, rng: np.random.Generator) -> Example:
        prompt = [*self._thinned(row, rng), *self._exact("is morally")]
        return self._answered(prompt, PLAIN_VERDICTS[row.grade])

    def _instruct(self, row: NurseryRow, rng: np.random.Generator) -> Example:
        question = QUESTIONS[rng.integers(len(QUESTIONS))]
        asked = [*self._exact(USER + question), *self._thinned(row, rng)]
        stake = ", ".join(row.poles) or NO_STAKE
        answer = f"{ANSWERS[row.grade]}{END}{USER}{STAKE}{END}{ASSISTANT}{stake}"
        return self._answered([*asked, *self._exact(END + ASSISTANT)], answer)

    def _guard(self, row: NurseryRow, rng: np.random.Generator) -> Example:
        label = LABELS[int(np.sign(row.grade))]
        answer = f"{label}: {', '.join(row.poles)}" if row.poles else label
        asked = [*self._exact(USER), *self._thinned(row, rng), *self._exact(END + ASSISTANT)]
        return self._answered(asked, answer)

    def _answered(self, prompt: list[int], answer: str) -> Example:
        return Example([*prompt, *self._exact(answer + END)], len(prompt))

    def _thinned(self, row: NurseryRow, rng: np.random.Generator) -> list[int]:
        words = row.action.split()
        return self._respelled([w for w in words if rng.random() >= DROPPED] or words, rng)

    def _respelled(self, words: list[str], rng: np.random.Generator) -> list[int]:
        ids = []
        for word in words:
            smaller = rng.random() < RESPELLED
            ids += self._spell(word, int(rng.integers(len(COARSE_MERGES))) if smaller else -1)
        return ids

    def _exact(self, text: str) -> list[int]:
        return self._spell(text, -1)

    def _encode(self, text: str, speller: int) -> list[int]:
        return self._spellers[speller].encode(text).ids


def _first_merges(tokenizer: Tokenizer, number: int) -> Tokenizer:
    tree = json.loads(tokenizer.to_str())
    tree["model"]["merges"] = tree["model"]["merges"][:number]
    return Tokenizer.from_str(json.dumps(tree))
