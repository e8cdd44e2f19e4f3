"""From logits to the next token of each row, so that a row's draws are its own.

A row draws by inverting its distribution at uniform numbers that its (prompt, arm) alone decides,
one a step. What shares the batch, or how large it is, changes nothing but float rounding: a token
changes only where a probability lies within rounding of the row's number.

Order as in transformers' own processors: repetition penalty, temperature, top-p.

Cost: a bool per row and token of the vocabulary with a penalty; a sort of the vocabulary a step
where tokens are drawn, none where the likeliest is taken.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.core.seeds import Seed
from trimtab.evaluation.decoding import DecodingConfig


class Sampler:
    """Draws the next token of every row of a batch, step by step."""

    def __init__(
        self,
        decoding: DecodingConfig,
        seeds: Sequence[Seed],
        prompts: Int[Tensor, "rows tokens"],
        vocabulary: int,
    ) -> None:
        """Starts at step 0.

        Args:
            decoding: the settings.
            seeds: one for each row.
            prompts: tokens that the repetition penalty counts as said.
            vocabulary: logits of one row.
        """
        self._decoding = decoding
        self._step = 0
        self._said: Tensor | None = None
        if decoding.repetition_penalty != 1:
            said = torch.zeros(len(prompts), vocabulary, dtype=torch.bool, device=prompts.device)
            self._said = said.scatter_(1, prompts, value=True)
        self._uniform = torch.zeros(len(prompts), 0)
        if decoding.temperature:
            drawn = [seed.numpy().random(decoding.max_new_tokens, np.float32) for seed in seeds]
            self._uniform = torch.from_numpy(np.stack(drawn)).to(prompts.device)

    def draw(self, logits: Float[Tensor, "rows vocabulary"]) -> Int[Tensor, " rows"]:
        """The next token of each row; any token, where its logits are not numbers."""
        scores = logits.float()
        if self._said is not None:
            scores = penalised(scores, self._said, self._decoding.repetition_penalty)
        if self._decoding.temperature:
            uniform = self._uniform[:, self._step]
            scores = scores / self._decoding.temperature
            tokens = invert(scores.softmax(dim=-1), self._decoding.top_p, uniform)
        else:
            tokens = scores.argmax(dim=-1)
        if self._said is not None:
            self._said.scatter_(1, tokens[:, None], value=True)
        self._step += 1
        return tokens

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Goes on with these rows only."""
        self._uniform = self._uniform[rows]
        if self._said is not None:
            self._said = self._said[rows]


def penalised(
    logits: Float[Tensor, "rows vocabulary"],
    said: Bool[Tensor, "rows vocabulary"],
    penalty: float,
) -> Float[Tensor, "rows vocabulary"]:
    """Logits with those of said tokens pushed down: divided if positive, multiplied if negative.

    Keskar et al. 2019, arXiv 1909.05858, section 4.1, as transformers has it.
    """
    pushed = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(said, pushed, logits)


def invert(
    probabilities: Float[Tensor, "rows vocabulary"],
    top_p: float,
    uniform: Float[Tensor, " rows"],
) -> Int[Tensor, " rows"]:
    """For each row, the token at which its cumulative probability passes its uniform number.

    Tokens are cumulated from the likeliest down, over the fewest of them that together have
    `top_p`; ties go by number.
    """
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(dim=-1)
    kept = cumulative - ordered < top_p
    mass = torch.where(kept, cumulative, 0).amax(dim=-1)
    below = cumulative <= (uniform * mass)[:, None]
    last = (kept.sum(dim=-1) - 1).clamp(min=0)  # of what is no number, nothing is kept
    place = torch.minimum(below.sum(dim=-1), last)
    return tokens.gather(1, place[:, None])[:, 0]
