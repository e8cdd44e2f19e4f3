"""Scores that need no generation: what an arm does to the log-probability of given answers.

For a grid of arms the residual below the edited layer is the same: it is computed once a batch, and
every arm is resumed from it (`evaluation.resume`). At an edited layer each coder encodes once,
whatever the number of alphas, and the head is computed at the positions that are scored and nowhere
else, for many arms in one product. Exact: what a hooked forward over the same batch gives, up to
rounding of the head's product.

Cost of A arms at layer L of N blocks: L + 1 + A (N - L - 1) blocks instead of A N, and the scored
share of the head. 24 arms at four layers: `benchmarks/arms.py`.

The nursery's margin (`nursery_choices`) is log p(right answer) - log p(wrong answer): positive
where the model would rather say what people judged.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trimtab.core.errors import DataError
from trimtab.edits.arms import Arm, Materials
from trimtab.edits.change import change_of, reconstruction
from trimtab.evaluation.answers import check_names
from trimtab.evaluation.decoding import DecodingConfig, prompt_tokens
from trimtab.evaluation.prompts import Question
from trimtab.evaluation.resume import Prefix, Resumable
from trimtab.models.batching import Batch, plan_batches
from trimtab.models.nursery_text import ANSWERS, QUESTIONS, NurseryRow

_HEAD_POSITIONS: Final = 256
"""Scored positions in one product with the head, which reads all of its weights: at fewer, reading
them takes longer than multiplying; at more, the logits of a large vocabulary take GBs."""


class Given(NamedTuple):
    """An answer to be scored, not to be generated."""

    prompt: list[int]
    """Tokens that the answer follows on."""
    answer: list[int]
    """Its tokens, at least one."""


class Choice(NamedTuple):
    """A question with the answer that is right and one that is wrong."""

    question: Question
    """What is asked."""
    right: str
    """What people judged."""
    wrong: str
    """The opposite, as strongly."""


def nursery_choices(rows: Sequence[NurseryRow]) -> list[Choice]:
    """What the nursery's instruct variant was taught to answer, and the opposite; no neutral row."""
    return [
        Choice(
            Question(str(number), f"{QUESTIONS[0]} {row.action}"),
            ANSWERS[row.grade],
            ANSWERS[-row.grade],
        )
        for number, row in enumerate(rows)
        if row.grade
    ]


def margins(
    model: Resumable,
    tokenizer: PreTrainedTokenizerBase,
    choices: Sequence[Choice],
    arms: Sequence[Arm],
    materials: Materials,
    decoding: DecodingConfig,
    token_budget: int = 1_024,
) -> Float[np.ndarray, "arms choices"]:
    """Margins log p(right) - log p(wrong) of each choice under each arm, in nats, summed over tokens.

    Args:
        decoding: says how questions are put to the model; nothing is decoded.
        token_budget: most tokens in one batch.

    Raises:
        TrimtabError: as `log_probabilities`, or no chat template, but one is asked for.
    """
    given = []
    for choice in choices:
        prompt = prompt_tokens(tokenizer, choice.question, decoding)
        given += [Given(prompt, _bare(tokenizer, text)) for text in (choice.right, choice.wrong)]
    found = log_probabilities(model, given, arms, materials, token_budget)
    return found[:, 0::2] - found[:, 1::2]


def _bare(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.inference_mode()
def log_probabilities(
    model: Resumable,
    given: Sequence[Given],
    arms: Sequence[Arm],
    materials: Materials,
    token_budget: int = 1_024,
) -> Float[np.ndarray, "arms given"]:
    """The log-probability of each given answer under each arm, in nats, summed over its tokens.

    Args:
        model: a causal LM.
        given: prompts with their answers.
        arms: in any order; arms of one layer share what is below it.
        materials: what they refer to, on the model's device.
        token_budget: most tokens in one batch; about 1,024 is best on a CPU.

    Raises:
        ConfigError: two arms of one name, or one that the model cannot carry.
        CoderError: a coder of another model.
        DataError: an answer or a prompt without a token.
        ModelError: a prompt with its answer is longer than the budget.
    """
    check_names(arms)
    for arm in arms:
        materials.check(arm, model.decoder.num_layers, model.decoder.d_model)
    for number, one in enumerate(given):
        if not one.prompt or not one.answer:
            raise DataError(
                f"A prompt and its answer must have a token each, but {number} has not."
            )
    found = np.zeros((len(arms), len(given)))
    lengths = [len(one.prompt) + len(one.answer) - 1 for one in given]
    for batch in plan_batches(lengths, token_budget):
        scored = _Scored.of(batch, given, model.decoder.device)
        states = {
            arm: last[scored.rows.to(last.device), scored.places.to(last.device)]
            for arm, last in resumed(model, scored.tokens, arms, materials)
        }
        size = max(1, _HEAD_POSITIONS // len(scored.rows))
        for start in range(0, len(arms), size):
            some = list(states)[start : start + size]
            logits = model.logits(torch.cat([states[arm] for arm in some]))
            for arm, of_arm in zip(some, logits.chunk(len(some)), strict=True):
                found[arm, batch.which] = scored.score(of_arm)
    return found


def resumed(
    model: Resumable,
    tokens: Int[Tensor, "batch tokens"],
    arms: Sequence[Arm],
    materials: Materials,
) -> Iterator[tuple[int, Float[Tensor, "batch tokens d_model"]]]:
    """For each arm (its number) the last block's output, layer by layer of the edits.

    What is below the deepest edit is computed once; a baseline among the arms goes through all.
    """
    last = model.decoder.num_layers - 1
    by_layer: dict[int, list[int]] = {}
    for number, arm in enumerate(arms):
        by_layer.setdefault(last if arm.layer is None else arm.layer, []).append(number)
    for prefix in model.prefixes(tokens, by_layer):
        kept: dict[str, Tensor] = {}
        for number in by_layer[prefix.layer]:
            yield number, model.resume(prefix, _changed(prefix, arms[number], materials, kept))


def _changed(prefix: Prefix, arm: Arm, materials: Materials, kept: dict[str, Tensor]) -> Tensor:
    """The residual after an arm's change; reconstructions are kept for the next arm."""
    if arm.layer is None:
        return prefix.hidden

    def reconstruct(name: str) -> Tensor:
        if name not in kept:
            kept[name] = reconstruction(materials.coders[name].sae, prefix.hidden)
        return kept[name]

    direction = materials.directions.get(arm.direction)
    change = change_of(arm, prefix.hidden, reconstruct, direction)
    return prefix.hidden + (arm.alpha * change).to(prefix.hidden.dtype)


class _Scored(NamedTuple):
    """A batch and where in it answers are read."""

    tokens: Int[Tensor, "batch tokens"]
    """Prompts and answers but for each answer's last token, which nothing is read after."""
    rows: Int[Tensor, " positions"]
    """For each token of an answer, the row it is read in."""
    places: Int[Tensor, " positions"]
    """The position that predicts it."""
    answers: Int[Tensor, " positions"]
    """The token itself."""

    @classmethod
    def of(cls, batch: Batch, given: Sequence[Given], device: torch.device) -> "_Scored":
        chosen = [given[i] for i in batch.which]
        counts = torch.tensor([len(one.answer) for one in chosen])
        places = [
            len(one.prompt) - 1 + offset for one in chosen for offset in range(len(one.answer))
        ]
        return cls(
            torch.tensor([[*one.prompt, *one.answer[:-1]] for one in chosen], device=device),
            torch.arange(len(chosen)).repeat_interleave(counts).to(device),
            torch.tensor(places, device=device),
            torch.tensor([token for one in chosen for token in one.answer], device=device),
        )

    def score(self, logits: Float[Tensor, "positions vocabulary"]) -> Float[np.ndarray, " batch"]:
        """Summed log-probability of each row's answer."""
        answers = self.answers[:, None].to(logits.device)
        each = logits.float().log_softmax(dim=-1).gather(1, answers)[:, 0]
        sums = torch.zeros(len(self.tokens), dtype=torch.float64, device=each.device)
        return sums.index_add_(0, self.rows.to(each.device), each.double()).cpu().numpy()
