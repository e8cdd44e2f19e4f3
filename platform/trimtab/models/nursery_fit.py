"""The nursery's training loop: one small causal LM, one supply of examples, fixed bits.

Same model, examples, configuration and torch version: same weights, bit for bit. So everything
that is drawn is drawn from a named seed, sequences are padded on the right and need no mask
under causal attention, and the number of threads is fixed, because it decides how sums are cut
(`kept_threads` puts the machine's own number back). Processors of another kind may round otherwise.

What is kept is the running average of the weights, which generalises better than the last ones.

Small batches, because the first hundred steps go to the format of the answers, whatever their
size; an output matrix of its own, because a tied one learns that format several times slower.

Cost at the defaults: 0.7 M parameters, 0.1 ms of one core per token.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Qwen3Config, Qwen3ForCausalLM

from trimtab.core.config import Config
from trimtab.core.seeds import Seed
from trimtab.models.nursery_text import Example

THREADS = 1
"""Steps are small: a second thread gains little alone and spins for seconds beside other work."""
AVERAGING = 0.97
"""How much of the running average of the weights stays at each step."""
WARMUP = 0.1
"""Share of the steps in which the learning rate rises; then it falls by a cosine to 5 %."""
POOL = 4
"""Batches that are drawn together and sorted by length, so that little is padded."""


class NurseryConfig(Config):
    """How the nursery's models are made."""

    d_model: PositiveInt = 64
    """Width of the residual stream."""
    d_mlp: PositiveInt = 192
    """Width of the gated MLP."""
    num_layers: PositiveInt = 6
    """Decoder blocks."""
    num_heads: PositiveInt = 4
    """Attention heads; each is `d_model / num_heads` wide, an even number."""
    vocab_size: PositiveInt = 3000
    """Most tokens of the vocabulary, of which 259 are bytes and special tokens."""
    base_steps: PositiveInt = 160
    """Optimiser steps of the base on the actions."""
    tuning_steps: PositiveInt = 390
    """Optimiser steps of instruct and of guard, each, from the base on."""
    batch: PositiveInt = 32
    """Sequences in a step."""
    learning_rate: PositiveFloat = 2e-3
    """Peak of AdamW's learning rate."""
    weight_decay: PositiveFloat = 0.1
    """AdamW's weight decay, on matrices only."""
    seed: int = 0
    """Names every draw."""

    @model_validator(mode="after")
    def _heads_fit(self) -> "NurseryConfig":
        if self.d_model % (2 * self.num_heads):
            raise ValueError(
                "`d_model` must be a multiple of `2 * num_heads`, "
                f"but got (d_model={self.d_model}, num_heads={self.num_heads})"
            )
        return self


def new_model(config: NurseryConfig, vocab_size: int, end: int) -> Qwen3ForCausalLM:
    """A random model of the nursery's shape; leaves torch's global random state alone.

    Args:
        vocab_size: number of tokens.
        end: id of the token that ends and pads a sequence.
    """
    shape = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        head_dim=config.d_model // config.num_heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Seed(config.seed).child("init").value)
        return Qwen3ForCausalLM(shape)


def fit(
    model: Qwen3ForCausalLM,
    examples: Iterator[Example],
    config: NurseryConfig,
    steps: int,
    rng: np.random.Generator,
    progress: Callable[[int], None],
) -> list[float]:
    """Trains a model in place and leaves it with the average of its weights.

    Sets torch's number of threads for the calling thread.

    Args:
        examples: an endless supply.
        rng: orders the batches.
        progress: called with the number of steps done, after each.

    Returns:
        The loss of each step, in nats per learned token.
    """
    optimizer = _optimizer(model, config)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
    losses = []
    torch.set_num_threads(THREADS)
    for step, batch in enumerate(islice(_batches(examples, config.batch, rng), steps)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step / steps)
        loss = answer_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        losses.append(loss.item())
        progress(step + 1)
    model.load_state_dict(average.module.state_dict())
    return losses


def answer_loss(model: Qwen3ForCausalLM, batch: list[Example]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the tokens to be learned, in nats; the head reads only those."""
    ids_BT, learned = _pad(batch)
    hidden = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state.flatten(0, 1)
    logits = model.lm_head(hidden.index_select(0, learned))
    return functional.cross_entropy(logits, ids_BT.flatten()[learned + 1])


def _pad(batch: list[Example]) -> tuple[Int[Tensor, "batch time"], Int[Tensor, " learned"]]:
    width = max(len(example.ids) for example in batch)
    ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
    before = []
    for row, (ids, learn_from) in enumerate(batch):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        before.append(torch.arange(learn_from - 1, len(ids) - 1) + row * width)
    return ids_BT, torch.cat(before)


def _batches(
    examples: Iterator[Example], size: int, rng: np.random.Generator
) -> Iterator[list[Example]]:
    while True:
        pool = sorted(islice(examples, POOL * size), key=lambda example: len(example.ids))
        for index in rng.permutation(POOL):
            yield pool[index * size : (index + 1) * size]


def _optimizer(model: Qwen3ForCausalLM, config: NurseryConfig) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    scales = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": scales, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _schedule(done: float) -> float:
    rising = min(1.0, (done + 1e-2) / WARMUP)
    return rising * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


@contextmanager
def kept_threads() -> Iterator[None]:
    """Puts torch's number of threads back to what it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
