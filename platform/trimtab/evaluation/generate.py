"""Batched decoding where each row carries its own arm.

Rows of a batch have prompts of one length, so that nothing is padded and no mask is needed; a row
that has ended leaves the batch, its keys and values with it. The cache is whatever the model's own
forward makes (sliding windows and chunks too), its plain layers growing in place. The likeliest use
is many arms of few prompts: on a GPU a decode step is bound by the bytes of the weights until about
180 rows, so arms in one batch are nearly free (PEERS 3.3).

transformers' `generate` does the same for one arm; it pads, keeps finished rows, and draws all
rows' tokens from one stream, so that an answer depends on what shares its batch.
"""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.core.errors import ActivationError
from trimtab.core.seeds import Seed
from trimtab.edits.arms import Arm, Materials
from trimtab.edits.steering import Steering, steer
from trimtab.evaluation.decoding import DecodingConfig
from trimtab.evaluation.growing_cache import grow_in_place
from trimtab.evaluation.sampling import Sampler
from trimtab.models.readout import contiguous_head

Finish = Literal["stop", "length"]
"""Why an answer ends: the model ended it, or it was as long as allowed."""


class Row(NamedTuple):
    """One answer to be."""

    prompt: list[int]
    """Tokens."""
    arm: Arm
    """What is done to the model."""
    seed: Seed
    """Of its draws."""
    name: str
    """What an error calls it."""


class Said(NamedTuple):
    """What a row said."""

    tokens: list[int]
    """Without the token that ended it."""
    stopped: bool
    """Whether the model ended it."""
    strength: float
    """Mean |change| / mean |x| at the arm's layer, over prompt and answer."""


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    rows: Sequence[Row],
    materials: Materials,
    decoding: DecodingConfig,
    stop: Collection[int],
) -> list[Said]:
    """What each row says.

    Args:
        model: a causal LM.
        rows: prompts of one length.
        materials: what the arms refer to.
        decoding: the settings.
        stop: tokens that end an answer.

    Raises:
        ConfigError, CoderError: the model cannot carry an arm.
        ActivationError: logits that are not numbers.
    """
    lengths = {len(row.prompt) for row in rows}
    assert len(lengths) == 1, "rows of one batch have one length"
    prompts = torch.tensor([row.prompt for row in rows], device=model.device)
    arms = [row.arm for row in rows]
    with steer(model, arms, materials) as steering, contiguous_head(model):
        return _Decode(model, rows, steering, decoding, stop).run(prompts)


class _Decode:
    """One batch on its way."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Sequence[Row],
        steering: Steering,
        decoding: DecodingConfig,
        stop: Collection[int],
    ) -> None:
        self.model, self.rows, self.steering = model, rows, steering
        self.decoding, self.stop = decoding, frozenset(stop)
        self.tokens: list[list[int]] = [[] for _ in rows]
        self.said: list[Said | None] = [None] * len(rows)
        self.running = list(range(len(rows)))

    def run(self, prompts: Int[Tensor, "rows tokens"]) -> list[Said]:
        """Prefill, then a step a token until no row is left."""
        found = self.model(input_ids=prompts, use_cache=True, logits_to_keep=1)
        cache, logits = found.past_key_values, found.logits[:, -1]
        grow_in_place(cache)
        seeds = [row.seed for row in self.rows]
        sampler = Sampler(self.decoding, seeds, prompts, logits.shape[-1])
        for left in reversed(range(self.decoding.max_new_tokens)):
            drawn = sampler.draw(logits)
            going = self._take(self._told(drawn, logits), last=left == 0)
            if not going:
                break
            if len(going) < len(drawn):
                kept = torch.tensor(going)  # on the CPU: layers may be on several devices
                drawn = drawn[kept]
                cache.batch_select_indices(kept)
                self.steering.keep(kept)
                sampler.keep(kept)
            found = self.model(input_ids=drawn[:, None], past_key_values=cache, use_cache=True)
            logits = found.logits[:, -1]
        return [said for said in self.said if said is not None]

    def _take(self, drawn: list[int], *, last: bool) -> list[int]:
        """Notes a step's tokens; places in the batch of the rows that go on."""
        ended = [token in self.stop for token in drawn]
        for row, token, over in zip(self.running, drawn, ended, strict=True):
            if not over:
                self.tokens[row].append(token)
        if any(ended) or last:
            strengths = self.steering.strengths.tolist()
            for place, row in enumerate(self.running):
                if ended[place] or last:
                    self.said[row] = Said(self.tokens[row], ended[place], strengths[place])
        going = [place for place, over in enumerate(ended) if not (over or last)]
        self.running = [self.running[place] for place in going]
        return going

    def _told(self, drawn: Tensor, logits: Tensor) -> list[int]:
        """A step's tokens, and whether they were drawn from numbers, in one wait for the device."""
        finite = logits.amax(dim=-1).isfinite()
        tokens, are_numbers = torch.stack([drawn, finite.to(drawn)]).tolist()
        if not all(are_numbers):
            row = self.rows[self.running[are_numbers.index(0)]]
            raise ActivationError(
                f"The model gave logits that are not numbers for {row.name}. Lower the arm's alpha "
                f"({row.arm.alpha}), or load the model in a wider dtype."
            )
        return tokens
