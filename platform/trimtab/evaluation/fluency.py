"""Fluency: what an edit costs in language, measured in every arm.

- perplexity of the answers under the *unedited* model: exp of the mean negative log-likelihood of
  the answers' tokens given their prompts, every token counting the same
- distinct-n over all answers of an arm: different n-grams / n-grams (Li et al. 2016, arXiv
  1510.03055)
- repetition: 1 - distinct n-grams / n-grams within an answer, mean over answers (seq-rep-n,
  Welleck et al. 2019, arXiv 1908.04319), and the longest run of one token
- length, and the share of answers that are empty or were cut off at the limit

They belong together: a model that repeats itself has a *low* perplexity and a high repetition; one
that talks noise the other way round. Cost: one forward pass over prompts and answers; the head runs
on the answers' positions only (float32 logits: tokens x vocabulary x 4 bytes a batch).
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from trimtab.metrics.defined import mean_defined
from trimtab.models.batching import plan_batches
from trimtab.models.readout import contiguous_head

REPEATED_N: Final = 4
"""Tokens of the n-grams whose repetition is counted."""
DISTINCT_NS: Final = (1, 2, 3)

Tokens = Sequence[int]


class Fluency(NamedTuple):
    """How an arm's answers read; NaN where there is nothing to measure."""

    perplexity: float
    """Under the unedited model."""
    distinct: dict[int, float]
    """n -> distinct-n."""
    repetition: float
    """Mean seq-rep-4."""
    longest_run: float
    """Mean over answers of the longest run of one token."""
    length: float
    """Mean tokens of an answer."""
    empty: float
    """Share of answers without text, thoughts aside: one cut off in thought says nothing."""
    truncated: float
    """Share of answers that were cut off at the limit."""

    @property
    def metrics(self) -> dict[str, float]:
        """Under the names of `trimtab.core.names`; what is undefined is left out."""
        flat = {"fluency/" + name: v for name, v in self._asdict().items() if name != "distinct"}
        flat |= {f"fluency/distinct_{n}": value for n, value in self.distinct.items()}
        return {name: value for name, value in flat.items() if math.isfinite(value)}


def fluency(
    answers: Sequence[Tokens],
    nll: Float64[np.ndarray, " answers"],
    empty: Sequence[bool],
    truncated: Sequence[bool],
) -> Fluency:
    """The measures of one arm.

    Args:
        answers: tokens of each answer.
        nll: negative log-likelihood of each answer, nats (`answer_nll`).
        empty: whether an answer has no text (it may have tokens: blanks, or thoughts).
        truncated: whether it was cut off.
    """
    lengths = np.array([len(answer) for answer in answers], dtype=np.float64)
    return Fluency(
        perplexity=perplexity(nll, lengths),
        distinct={n: distinct(answers, n) for n in DISTINCT_NS},
        repetition=mean_defined(np.array([repetition(a, REPEATED_N) for a in answers])),
        longest_run=mean_defined(np.array([float(longest_run(a)) for a in answers])),
        length=mean_defined(lengths),
        empty=mean_defined(np.array(empty, dtype=np.float64)),
        truncated=mean_defined(np.array(truncated, dtype=np.float64)),
    )


def perplexity(
    nll: Float64[np.ndarray, " answers"], lengths: Float64[np.ndarray, " answers"]
) -> float:
    """exp(nats per token) over all answers; NaN without a token, infinite beyond floats."""
    tokens = float(lengths.sum())
    if tokens == 0:
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.exp(nll.sum() / tokens))


def distinct(answers: Sequence[Tokens], n: int) -> float:
    """Different n-grams / n-grams, over all answers; NaN if none has n tokens."""
    grams = [gram for answer in answers for gram in ngrams(answer, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(answer: Tokens, n: int) -> float:
    """Share of an answer's n-grams that repeat an earlier one; NaN below n tokens."""
    grams = ngrams(answer, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else math.nan


def longest_run(answer: Tokens) -> int:
    """Length of the longest run of one token; 0 for an empty answer."""
    return max((sum(1 for _ in run) for _, run in groupby(answer)), default=0)


def ngrams(answer: Tokens, n: int) -> list[tuple[int, ...]]:
    """Each n consecutive tokens, in order."""
    return list(zip(*(answer[i:] for i in range(n)), strict=False))


@torch.inference_mode()
def answer_nll(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    answers: Sequence[Tokens],
    token_budget: int = 2048,
) -> Float64[np.ndarray, " answers"]:
    """Negative log-likelihood of each answer given its prompt, in nats, summed over its tokens.

    Sequences of equal length share a batch, without padding. The model is run as it is: take edits
    off first.

    Args:
        prompts: tokens of each prompt as the model read it, at least one.
        answers: tokens of each answer; an empty one has 0.
        token_budget: most tokens in one forward pass.

    Raises:
        ModelError: a prompt and its answer alone are over the budget.
    """
    assert all(len(prompt) for prompt in prompts), "an answer's first token follows a prompt"
    nll = np.zeros(len(answers))
    said = [i for i, answer in enumerate(answers) if len(answer)]
    whole = [[*prompts[i], *answers[i]] for i in said]
    for batch in plan_batches([len(ids) for ids in whole], token_budget):
        ids = torch.tensor([whole[i] for i in batch.which], device=model.device)
        lengths = [len(answers[said[i]]) for i in batch.which]
        losses = _token_losses(model, ids, max(lengths))
        for i, length, loss in zip(batch.which, lengths, losses, strict=True):
            nll[said[i]] = loss[-length:].sum()
    return nll


def _token_losses(
    model: PreTrainedModel, ids: Int[Tensor, "batch length"], keep: int
) -> Float64[np.ndarray, "batch keep"]:
    """Nats of the last `keep` tokens of each row."""
    with contiguous_head(model):
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep + 1).logits[:, :-1]
    said = ids[:, -keep:]
    losses = cross_entropy(logits.float().flatten(0, 1), said.flatten(), reduction="none")
    return losses.view(said.shape).double().cpu().numpy()
