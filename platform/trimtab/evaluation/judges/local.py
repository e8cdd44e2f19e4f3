"""A local judge: any causal LM, read at the tokens of its labels instead of made to write.

The logits of the labels' tokens (`1`, `2`, `3`, or `A`, `B`, `C`), at the position where the model
would begin its answer, are turned into probabilities over exactly those labels. A score is the
expected value over them, which is finer than one sampled digit and needs one forward pass; a pair
is decided by the likeliest label. StrongREJECT's and G-Eval's judges are read so.

The prompt goes through the chat template if there is one (thinking switched off where it can be),
and ends with `Verdict:`. Each label must be one last token in that place; a tokenizer where it is
not is an error, because half a label has no probability. Cases of equal length share a batch, so
there is no padding. Liu et al. 2023, arXiv 2303.16634; Souly et al. 2024, arXiv 2402.10260.

Cost: a forward pass per case; the head runs on the last position only.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import PositiveInt
from transformers import PreTrainedTokenizerBase

from trimtab.core.config import Config
from trimtab.core.errors import JudgeError
from trimtab.evaluation.decoding import chat_text
from trimtab.evaluation.judges.rubric import Rubric
from trimtab.evaluation.judges.verdict import Case, Verdict, failure
from trimtab.models.batching import plan_batches
from trimtab.models.card import ModelConfig
from trimtab.models.loading import LoadedModel, context_of
from trimtab.models.readout import contiguous_head

LEAD: Final = "Verdict:"
"""What the judge's answer begins with; the label follows after a space."""
_OTHER_JUDGE: Final = "Give another judge model, or an `http` judge."


class LocalJudgeConfig(Config):
    """A judge that runs here."""

    kind: Literal["local"] = "local"
    """Says that this is a local judge."""
    model: ModelConfig
    """Which model."""
    token_budget: PositiveInt = 8192
    """Most tokens in one forward pass, and in one case: a longer case is a failed verdict."""


class LocalJudge:
    """See `verdict.Judge`; the same case gives the same verdict, whatever shares its call."""

    def __init__(self, loaded: LoadedModel, label: str, token_budget: int = 8192) -> None:
        """Takes a model that is loaded already.

        Args:
            loaded: the model, in evaluation mode.
            label: what tables call it.
            token_budget: see `LocalJudgeConfig`.
        """
        self._model: Any = loaded.model
        self._tokenizer = loaded.tokenizer
        self._label = label
        self._token_budget = token_budget
        self._limit = min(token_budget, context_of(loaded.model.config) or token_budget)

    def identity(self) -> dict[str, str]:
        """See `Judge`."""
        return {"kind": "local", "model": self._label}

    def judge(self, rubric: Rubric, cases: Sequence[Case]) -> list[Verdict]:
        """See `Judge`.

        Raises:
            JudgeError: a label is not one token of this model.
            ModelError: its chat template refuses a question.
        """
        labels = list(rubric.labels)
        prompts = [self._prompt(rubric, case) for case in cases]
        if not prompts:
            return []
        tokens = label_tokens(self._tokenizer, prompts[0], labels, self._label)
        ids = [self._ids(prompt, labels[0], tokens[0]) for prompt in prompts]
        fits = [i for i, these in enumerate(ids) if len(these) <= self._limit]
        verdicts = [
            failure(f"{len(these)} tokens, and this judge reads at most {self._limit}")
            for these in ids
        ]
        for batch in plan_batches([len(ids[i]) for i in fits], self._token_budget):
            which = [fits[i] for i in batch.which]
            for i, p in zip(
                which, self._probabilities([ids[i] for i in which], tokens), strict=True
            ):
                verdicts[i] = _verdict(rubric, p)
        return verdicts

    def _prompt(self, rubric: Rubric, case: Case) -> str:
        message = rubric.message(case.question, case.answers)
        return f"{rendered(self._tokenizer, message)}{LEAD}"

    def _ids(self, prompt: str, label: str, token: int) -> list[int]:
        *ids, last = _encode(self._tokenizer, f"{prompt} {label}")
        if last != token:
            raise _not_one_token(self._label, [label])
        return ids

    @torch.inference_mode()
    def _probabilities(
        self, ids: list[list[int]], tokens: list[int]
    ) -> Float64[np.ndarray, "batch labels"]:
        batch = torch.tensor(ids, device=self._model.device)
        with contiguous_head(self._model):
            found = self._model(input_ids=batch, use_cache=False, logits_to_keep=1)
        return torch.softmax(found.logits[:, -1, tokens].double(), dim=-1).cpu().numpy()


def label_tokens(
    tokenizer: PreTrainedTokenizerBase, prompt: str, labels: Sequence[str], name: str
) -> list[int]:
    """The one token of each label where it follows the prompt.

    Args:
        name: what an error calls the judge.

    Raises:
        JudgeError: a label is more than one token there, or two labels are the same one.
    """
    encoded = [_encode(tokenizer, f"{prompt} {label}") for label in labels]
    heads = {tuple(ids[:-1]) for ids in encoded}
    tokens = [ids[-1] for ids in encoded]
    if len(heads) > 1 or len(set(tokens)) < len(labels):
        raise _not_one_token(name, labels)
    return tokens


def rendered(tokenizer: PreTrainedTokenizerBase, message: str) -> str:
    """A message as the judge reads it: its chat template with thinking off, or plain text.

    Raises:
        ModelError: the template refuses it.
    """
    if not tokenizer.chat_template:
        return f"{message.rstrip()}\n\n"
    messages = [{"role": "user", "content": message}]
    # Templates that know no thinking do not read it.
    return chat_text(tokenizer, messages, {"enable_thinking": False}, _OTHER_JUDGE)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # A chat template writes its own special tokens.
    return tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]


def _verdict(rubric: Rubric, p: Float64[np.ndarray, " labels"]) -> Verdict:
    if not np.isfinite(p).all():
        return failure("the judge's logits are not finite")
    raw = ", ".join(f"{label}: {share:.4f}" for label, share in zip(rubric.labels, p, strict=True))
    label = list(rubric.labels)[int(p.argmax())]
    expected = float(p @ np.array(list(rubric.labels.values())))
    return Verdict(expected if rubric.kind == "score" else rubric.labels[label], label, raw)


def _not_one_token(name: str, labels: Sequence[str]) -> JudgeError:
    return JudgeError(
        f"A local judge must write each label ({', '.join(labels)}) after {LEAD!r} as one token of "
        f"its own, but the tokenizer of {name} does not. Use labels that it has (a rubric file of "
        "your own), another judge model, or an `http` judge."
    )
