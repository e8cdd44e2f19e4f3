"""Where a worker gets the pooled rows of a block from: a model it loads, or a finished store.

Both give float32 rows of the kept dtype's precision, so that a measure computed from either is the
same bits.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.core.hashing import content_hash
from trimtab.models.allocator import keep_freed_memory
from trimtab.models.card import ModelConfig
from trimtab.models.engine import Engine, Request
from trimtab.models.journal import Resume
from trimtab.models.plan import ModelPlan
from trimtab.store.reader import open_store
from trimtab.stream.blocks import Block

Pooled = dict[int, Float[np.ndarray, "rows d_model"]]
"""By layer."""


@runtime_checkable
class Source(Protocol):
    """Gives the pooled rows of a block."""

    held: dict[str, int]
    """Bytes of weights in the worker's memory, by precision."""

    def rows(self, block: Block, layers: Sequence[int]) -> Pooled:
        """One row per scenario of the block, for each layer."""
        ...


class Computed(NamedTuple):
    """What one call of a model gave."""

    rows: Iterator[dict[int, Float[Tensor, "prompts d_model"]]]
    """For each block, its prompts' rows by layer in the kept dtype; one block at a time in memory
    where `scratch` was given."""
    num_tokens: int
    """Tokens computed."""
    token_budget: int
    """The budget that fitted."""


class ModelSource:
    """Runs the model. Loaded on first use, in the worker, and once there.

    What loads it is imported there too: transformers takes 2.5 s, which a process that only reads a
    store need not spend.
    """

    def __init__(
        self,
        spec: ModelConfig,
        request: Request,
        pooling: str,
        dtype: str,
        threads: int,
        placement: ModelPlan,
    ) -> None:
        self.spec, self.request, self.threads = spec, request, threads
        self.pooling = pooling
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.placement = placement
        self.held: dict[str, int] = {}
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine over the model, which is loaded at the first call."""
        if self._engine is None:
            torch.set_num_threads(self.threads)
            self._engine = self._streamed() if self.streams else self._resident()
            self._engine.token_budget = min(self._engine.token_budget, self.placement.token_budget)
        return self._engine

    @property
    def streams(self) -> bool:
        """Whether weights are read while the engine runs."""
        return self.placement.source == "streamed"

    def _resident(self) -> Engine:
        from trimtab.models.loading import load

        keep_freed_memory()
        loaded = load(self.spec)
        self.held = loaded.held.bytes
        return Engine(loaded.decoder, self.request, loaded.decoder.device)

    def _streamed(self) -> Engine:
        from trimtab.models.streamed import open_streamed

        source = open_streamed(self.spec)
        self.held = source.held
        return Engine(source, self.request, source.device)

    def extract(self, blocks: Sequence[Block], scratch: Path | None = None) -> Computed:
        """The prompts of some blocks through the model, each block in batches of its own.

        Args:
            blocks: run together: each decoder block passes over all of them once.
            scratch: a folder in which the run can be taken up again at a layer boundary.
        """
        prompts = [prompt for block in blocks for prompt in block.prompts]
        parts = [len(block.prompts) for block in blocks]
        resume = Resume(scratch, self._name, self._every) if scratch else None
        found = self.engine.extract(prompts, resume, parts)
        pooled = {layer: x for (_, layer), x in found.pooled.items()}
        return Computed(self._by_block(pooled, parts), found.num_tokens, found.token_budget)

    @property
    def _name(self) -> str:
        return content_hash([self.spec.model_dump(mode="json"), str(self.dtype), self.threads])

    @property
    def _every(self) -> int:
        """Blocks between two savings of the states, so that a quarter of what is read is written."""
        p = self.placement
        read = p.read_bytes / (p.replicas * p.passes)
        return max(1, math.ceil(4 * p.hidden_state_bytes * (len(self.request.layers)) / read))

    def _by_block(self, pooled: dict[int, Tensor], parts: list[int]) -> Iterator[dict[int, Tensor]]:
        start = 0
        for size in parts:
            yield {layer: x[start : start + size].to(self.dtype) for layer, x in pooled.items()}
            start += size

    def rows(self, block: Block, layers: Sequence[int]) -> Pooled:
        """See `Source`."""
        pooled = next(self.extract([block]).rows)
        return {layer: pooled[layer].float().numpy()[block.prompt_of_row] for layer in layers}


class StoreSource:
    """Reads a finished store."""

    def __init__(self, path: Path, pooling: str) -> None:
        self.path, self.pooling = path, pooling
        self.held: dict[str, int] = {}

    def rows(self, block: Block, layers: Sequence[int]) -> Pooled:
        """See `Source`."""
        store = open_store(self.path)
        found: Pooled = {}
        for layer in layers:
            stored = store.rows(layer, self.pooling, block.number)
            assert np.array_equal(stored.row_index, block.labels.index), "the store has this plan"
            found[layer] = stored.x.float().numpy()
        return found
