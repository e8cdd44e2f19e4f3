"""The extraction engine: prompts in, pooled block outputs out. There is one.

Block-major and without hooks: all batches of the prompts at hand are embedded, then each decoder
block runs over every batch in turn, is pooled on the device, and the next block follows. No
lm_head, no final norm, no block beyond the deepest layer asked for; only pooled rows leave the
device. Because blocks are visited once, in order, the source of blocks may be a loaded model or
one that reads its weights while it goes.

Layer L is the output of block L, before the model's final norm.

Cost: memory for the hidden states of all prompts given at once (2,048 prompts x 12 tokens x 4,096
x bf16 = 200 MB) plus one batch's activations; compute 2 x parameters below the deepest layer per
token. Equal to the model's ordinary forward on the same batches to the bit.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from trimtab.core.config import Config
from trimtab.core.errors import ActivationError, ConfigError, ModelError
from trimtab.models.batching import Batch, plan_batches
from trimtab.models.blocks import BlockSource, Call
from trimtab.models.pooling import POOLINGS, pooler

log = logging.getLogger(__name__)


class Prompt(NamedTuple):
    """One distinct text, tokenised."""

    tokens: list[int]
    """Token ids, at least one."""
    name: str
    """What an error calls it (a scenario's id)."""


class Request(Config):
    """What is wanted of each prompt."""

    layers: tuple[int, ...]
    """Layers to pool, ascending; the deepest one is where the forward stops."""
    poolings: tuple[str, ...] = ("mean",)
    """`mean`, `last`, or both."""
    skip_first: bool = False
    """Leave the first token (BOS) out of the mean."""
    token_budget: PositiveInt = 16_384
    """Most tokens in one batch. Larger is faster on a GPU until memory runs out; on a CPU about
    1,024 is best."""


class Extraction(NamedTuple):
    """Pooled block outputs of the prompts, in the prompts' order."""

    pooled: dict[tuple[str, int], Float[Tensor, "prompts d_model"]]
    """By (pooling, layer); float32, on the host."""
    num_tokens: int
    """Tokens computed."""
    token_budget: int
    """The budget that fitted: the one asked for, or less after running out of memory."""


class _Running(NamedTuple):
    """A batch on its way through the blocks."""

    batch: Batch
    hidden: Tensor
    calls: list[Call]


class Engine:
    """Runs prompts through a source of blocks.

    After running out of memory the token budget stays halved for the engine's life.
    """

    def __init__(self, source: BlockSource, request: Request, device: torch.device) -> None:
        """Checks the request against the source.

        Raises:
            ConfigError: a layer that the model does not have, or an unknown pooling.
        """
        check_request(request, source.num_layers)
        self.source = source
        self.request = request
        self.device = device
        self.token_budget = request.token_budget

    @torch.inference_mode()
    def extract(self, prompts: Sequence[Prompt]) -> Extraction:
        """Pools every requested layer for every prompt.

        Raises:
            ActivationError: a NaN or an infinity, named by layer and prompt.
            ModelError: not even one prompt fits into memory.
        """
        while True:
            try:
                return self._extract(prompts)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._halve(max(len(prompt.tokens) for prompt in prompts), error)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _halve(self, longest: int, error: RuntimeError) -> None:
        if self.token_budget // 2 < longest:
            raise ModelError(
                f"Out of memory with {self.token_budget} tokens in a batch, and half of that is "
                f"less than the longest prompt ({longest} tokens). Use fewer prompts at a time, a "
                "smaller precision, or a device with more memory."
            ) from error
        self.token_budget //= 2
        log.warning("Out of memory: the token budget is halved to %d.", self.token_budget)

    def _extract(self, prompts: Sequence[Prompt]) -> Extraction:
        batches = plan_batches([len(prompt.tokens) for prompt in prompts], self.token_budget)
        running = self._embed(prompts, batches)
        pooled: dict[tuple[str, int], Tensor] = {}
        for layer, block in enumerate(self.source.blocks(max(self.request.layers))):
            for position, (batch, hidden, calls) in enumerate(running):
                hidden = block(hidden, *calls[layer].args, **calls[layer].kwargs)
                running[position] = _Running(batch, hidden, calls)
            if layer in self.request.layers:
                for pooling in self.request.poolings:
                    pooled[pooling, layer] = self._pool(running, pooling, len(prompts))
                    _check_finite(pooled[pooling, layer], layer, prompts)
        return Extraction(pooled, sum(len(p.tokens) for p in prompts), self.token_budget)

    def _embed(self, prompts: Sequence[Prompt], batches: list[Batch]) -> list[_Running]:
        calls_by_shape: dict[torch.Size, list[Call]] = {}
        running = []
        for batch in batches:
            tokens = torch.tensor([prompts[i].tokens for i in batch.which], device=self.device)
            hidden, calls = self.source.start(tokens)
            running.append(_Running(batch, hidden, calls_by_shape.setdefault(tokens.shape, calls)))
        return running

    def _pool(self, running: list[_Running], pooling: str, num_prompts: int) -> Tensor:
        pool = pooler(pooling, self.request.skip_first)
        first = running[0].hidden
        rows = torch.empty(num_prompts, self.source.d_model, device=first.device)
        for batch, hidden, _ in running:
            rows[torch.from_numpy(batch.which).to(first.device)] = pool(hidden)
        return rows.cpu()


def check_request(request: Request, num_layers: int) -> None:
    """Refuses what a model of so many layers cannot give.

    Raises:
        ConfigError: a layer that the model does not have, none at all, or an unknown pooling.
    """
    if not request.layers:
        raise ConfigError("At least one layer must be asked for.")
    for layer in request.layers:
        if not 0 <= layer < num_layers:
            raise ConfigError(
                f"`0 <= layer < num_layers` must hold, but got ({layer=}, {num_layers=}). "
                f"Layers count from 0; the last one is {num_layers - 1}."
            )
    for pooling in request.poolings:
        if pooling not in POOLINGS:
            raise ConfigError(f"A pooling must be one of {POOLINGS}, but got {pooling!r}.")


def _check_finite(
    rows: Float[Tensor, "prompts d_model"], layer: int, prompts: Sequence[Prompt]
) -> None:
    finite = rows.isfinite().all(dim=1).numpy()
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ActivationError(
            f"Layer {layer} gave a NaN or an infinity for {len(bad)} of {len(prompts)} prompts, the "
            f"first at scenario {prompts[bad[0]].name}. Check the model's weights, or load it in a "
            "wider dtype (bfloat16 or float32 instead of float16)."
        )


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
