"""The extraction engine: prompts in, pooled block outputs out. There is one.

Block-major and without hooks: all batches of the prompts at hand are embedded, then each decoder
block runs over every batch in turn, is pooled on the device, and the next block follows. No
lm_head, no final norm, no block beyond the deepest layer asked for; only pooled rows leave the
device. Because blocks are visited once, in order, the source of blocks may be a loaded model or
one that reads its weights while it goes.

Layer L is the output of block L, before the model's final norm.

Cost: memory for the hidden states of all prompts given at once (2,048 prompts x 12 tokens x 4,096
x bf16 = 200 MB; `states` says where they stay) plus one batch's activations; compute 2 x parameters
below the deepest layer per token. Equal to the model's ordinary forward on the same batches to the
bit. With a folder a run that was cut short goes on after its last finished layer (`journal`).
"""

import gc
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from trimtab.core.config import Config
from trimtab.core.errors import ActivationError, ConfigError, ModelError
from trimtab.core.hashing import content_hash
from trimtab.models.batching import Batch, plan_batches
from trimtab.models.blocks import BlockSource, Call
from trimtab.models.journal import Journal, Resume, Rows
from trimtab.models.pooling import POOLINGS, pooler
from trimtab.models.states import Keep, States, where

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
    """Prompts on their way through the blocks."""

    batches: list[Batch]
    """The same for the same prompts and budget, always."""
    calls: list[list[Call]]
    """For each batch, what each block is called with; shared by batches of one shape."""
    states: States
    """Hidden states between blocks."""


class Engine:
    """Runs prompts through a source of blocks.

    After running out of memory the token budget stays halved for the engine's life.
    """

    def __init__(
        self, source: BlockSource, request: Request, device: torch.device, keep: Keep = "auto"
    ) -> None:
        """Checks the request against the source.

        Args:
            source: where blocks come from, resident or streamed.
            request: what is wanted of each prompt.
            device: where tokens go in.
            keep: where hidden states stay between blocks.

        Raises:
            ConfigError: a layer that the model does not have, or an unknown pooling.
        """
        check_request(request, source.num_layers)
        self.source = source
        self.request = request
        self.device = device
        self.keep: Keep = keep
        self.token_budget = request.token_budget

    @torch.inference_mode()
    def extract(
        self,
        prompts: Sequence[Prompt],
        resume: Resume | None = None,
        parts: Sequence[int] = (),
    ) -> Extraction:
        """Pools every requested layer for every prompt.

        Args:
            prompts: what to run.
            resume: a folder in which the run keeps itself after each layer. The same prompts,
                request and model go on there at the next layer, and give the same bits. Pooled
                rows then stay in its files, and are mapped.
            parts: prompts of each part that is to be batched by itself (`plan_batches`).

        Raises:
            ActivationError: a NaN or an infinity, named by layer and prompt.
            ModelError: not even one prompt fits into memory, or a weight cannot be read.
            OutputError: the folder cannot be written.
        """
        journal = self._journal(prompts, parts, resume) if resume else None
        while True:
            try:
                return self._extract(prompts, parts, journal)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._halve(max(len(prompt.tokens) for prompt in prompts), error)
            gc.collect()  # an error of the reading thread and its frames hold one another
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _journal(self, prompts: Sequence[Prompt], parts: Sequence[int], resume: Resume) -> Journal:
        tokens = [prompt.tokens for prompt in prompts]
        request = self.request.model_dump(mode="json")
        identity = content_hash([resume.model, tokens, list(parts), request])
        journal = Journal(resume.folder, identity, resume.every)
        earlier = journal.progress()
        if earlier is not None and earlier.token_budget < self.token_budget:
            self.token_budget = earlier.token_budget  # what fitted then
        return journal

    def _halve(self, longest: int, error: RuntimeError) -> None:
        if self.token_budget // 2 < longest:
            raise ModelError(
                f"Out of memory with {self.token_budget} tokens in a batch, and half of that is "
                f"less than the longest prompt ({longest} tokens). Use fewer prompts at a time, a "
                "smaller precision, or a device with more memory."
            ) from error
        self.token_budget //= 2
        log.warning("Out of memory: the token budget is halved to %d.", self.token_budget)

    def _extract(
        self, prompts: Sequence[Prompt], parts: Sequence[int], journal: Journal | None
    ) -> Extraction:
        first = journal.begin(self.token_budget) if journal else 0
        deepest = max(self.request.layers)
        pooled: dict[tuple[str, int], Tensor] = {}
        if journal is not None:
            done = [layer for layer in self.request.layers if layer < first]
            pooled |= _by_pooling(journal.rows(done))
        if first <= deepest:
            batches = plan_batches([len(p.tokens) for p in prompts], self.token_budget, parts)
            with ExitStack() as open_files:
                running = self._start(prompts, batches, first, journal, open_files)
                blocks = open_files.enter_context(closing(self.source.blocks(deepest, first)))
                for layer, block in enumerate(blocks, first):
                    rows = self._run(block, layer, running, prompts)
                    if journal is None:
                        pooled |= _by_pooling({layer: rows})
                    else:
                        journal.keep(layer, rows)
                        if (saved := running.states.saved_in) is not None or layer == deepest:
                            journal.reach(layer, self.token_budget, saved or 0)
                        pooled |= _by_pooling(journal.rows([layer] if rows else []))
        if journal is not None:
            journal.forget_states()
        return Extraction(pooled, sum(len(p.tokens) for p in prompts), self.token_budget)

    def _start(
        self,
        prompts: Sequence[Prompt],
        batches: list[Batch],
        first: int,
        journal: Journal | None,
        open_files: ExitStack,
    ) -> _Running:
        """Embeds every batch, or takes up the states of a run that came as far as `first`."""
        calls: dict[tuple[int, int], list[Call]] = {}
        states: States | None = None
        for number, batch in enumerate(batches):
            if first and batch.shape in calls:
                continue
            tokens = torch.tensor([prompts[i].tokens for i in batch.which], device=self.device)
            hidden, recorded = self.source.start(tokens)
            calls.setdefault(batch.shape, recorded)
            if states is None:
                states = self._states(batches, hidden.dtype, journal, open_files)
                states.begin(-1)
            if not first:
                states.put(number, hidden)
        assert states is not None, "there is at least one prompt"
        if first:
            earlier = journal.progress() if journal else None
            assert earlier is not None, "`first` was read from it"
            states.resume(earlier.states)
        else:
            states.turn()
        return _Running(batches, [calls[batch.shape] for batch in batches], states)

    def _states(
        self,
        batches: list[Batch],
        dtype: torch.dtype,
        journal: Journal | None,
        open_files: ExitStack,
    ) -> States:
        shapes = [(*batch.shape, self.source.d_model) for batch in batches]
        nbytes = sum(math.prod(shape) for shape in shapes) * dtype.itemsize
        keep = where(self.keep, nbytes, self.device, has_folder=journal is not None)
        if journal is None:
            return States(keep, self.device, None)
        files = open_files.enter_context(closing(journal.open_states(shapes, dtype)))
        return States(keep, self.device, files, journal.every)

    def _run(
        self, block: nn.Module, layer: int, running: _Running, prompts: Sequence[Prompt]
    ) -> Rows:
        """One block over every batch; the layer's pooled rows, if it was asked for."""
        wanted = self.request.poolings if layer in self.request.layers else ()
        pools = {pooling: pooler(pooling, self.request.skip_first) for pooling in wanted}
        by_batch: dict[str, list[Tensor]] = {pooling: [] for pooling in wanted}
        running.states.begin(layer)
        for number, calls in enumerate(running.calls):
            hidden = _call(block, running.states.get(number), calls[layer], layer)
            for pooling, pool in pools.items():
                by_batch[pooling].append(pool(hidden))
            if layer < max(self.request.layers):
                running.states.put(number, hidden)
        running.states.turn()
        order = np.concatenate([batch.which for batch in running.batches])
        return {
            pooling: _in_order(torch.cat(pooled), order, layer, prompts)
            for pooling, pooled in by_batch.items()
        }


def _call(block: nn.Module, hidden: Tensor, call: Call, layer: int) -> Tensor:
    after = block(hidden, *call.args, **call.kwargs)
    if not isinstance(after, Tensor) or after.shape != hidden.shape:
        found = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
        raise ModelError(
            f"Every block must return hidden states of the shape it was given, "
            f"{tuple(hidden.shape)}, but block {layer} ({type(block).__name__}) returned {found}. "
            "This architecture is not supported."
        )
    return after


def _by_pooling(rows: Mapping[int, Rows]) -> dict[tuple[str, int], Tensor]:
    return {(pooling, layer): x for layer, found in rows.items() for pooling, x in found.items()}


def check_request(request: Request, num_layers: int) -> None:
    """Refuses what a model of so many layers cannot give.

    Raises:
        ConfigError: a layer that the model does not have or twice, none, or an unknown pooling.
    """
    if not request.layers:
        raise ConfigError("At least one layer must be asked for.")
    if len(set(request.layers)) < len(request.layers):
        raise ConfigError(f"Each layer must be asked for once, but got {request.layers}.")
    for layer in request.layers:
        if not 0 <= layer < num_layers:
            raise ConfigError(
                f"`0 <= layer < num_layers` must hold, but got ({layer=}, {num_layers=}). "
                f"Layers count from 0; the last one is {num_layers - 1}."
            )
    for pooling in request.poolings:
        if pooling not in POOLINGS:
            raise ConfigError(f"A pooling must be one of {POOLINGS}, but got {pooling!r}.")


def _in_order(
    pooled: Float[Tensor, "prompts d_model"],
    order: Int[np.ndarray, " prompts"],
    layer: int,
    prompts: Sequence[Prompt],
) -> Float[Tensor, "prompts d_model"]:
    """Checks rows where they were computed, and puts them on the host in the prompts' order."""
    finite = pooled.isfinite().all(dim=1).cpu().numpy()
    if not finite.all():
        bad = np.sort(order[~finite])
        raise ActivationError(
            f"Layer {layer} gave a NaN or an infinity for {len(bad)} of {len(prompts)} prompts, the "
            f"first at scenario {prompts[bad[0]].name}. Check the model's weights, or load it in a "
            "wider dtype (bfloat16 or float32 instead of float16)."
        )
    rows = torch.empty(pooled.shape)
    rows[torch.from_numpy(order)] = pooled.cpu()
    return rows


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the host had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
