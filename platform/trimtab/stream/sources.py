"""Where a worker gets the pooled rows of a block from: a model it loads, or a finished store.

Both give float32 rows of the kept dtype's precision, so that a measure computed from either is the
same bits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.models.allocator import keep_freed_memory
from trimtab.models.engine import Engine, Extraction, Request
from trimtab.models.loading import ModelConfig, load
from trimtab.store.reader import open_store
from trimtab.stream.blocks import Block

Pooled = dict[int, Float[np.ndarray, "rows d_model"]]
"""By layer."""


@runtime_checkable
class Source(Protocol):
    """Gives the pooled rows of a block."""

    def rows(self, block: Block, layers: Sequence[int]) -> Pooled:
        """One row per scenario of the block, for each layer."""
        ...


class ModelSource:
    """Runs the model. Loaded on first use, in the worker, and once there."""

    def __init__(
        self, spec: ModelConfig, request: Request, pooling: str, dtype: str, threads: int
    ) -> None:
        self.spec, self.request, self.threads = spec, request, threads
        self.pooling = pooling
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine over the model, which is loaded at the first call."""
        if self._engine is None:
            torch.set_num_threads(self.threads)
            keep_freed_memory()
            loaded = load(self.spec)
            self._engine = Engine(loaded.decoder, self.request, loaded.decoder.device)
        return self._engine

    def extract(self, block: Block) -> tuple[dict[int, Tensor], Extraction]:
        """The block's prompts through the model: rows per prompt in the kept dtype, by layer."""
        extraction = self.engine.extract(block.prompts)
        pooled = {layer: x.to(self.dtype) for (_, layer), x in extraction.pooled.items()}
        return pooled, extraction

    def rows(self, block: Block, layers: Sequence[int]) -> Pooled:
        """See `Source`."""
        pooled, _ = self.extract(block)
        return {layer: pooled[layer].float().numpy()[block.prompt_of_row] for layer in layers}


class StoreSource:
    """Reads a finished store."""

    def __init__(self, path: Path, pooling: str) -> None:
        self.path, self.pooling = path, pooling

    def rows(self, block: Block, layers: Sequence[int]) -> Pooled:
        """See `Source`."""
        store = open_store(self.path)
        found: Pooled = {}
        for layer in layers:
            stored = store.rows(layer, self.pooling, block.number)
            assert np.array_equal(stored.row_index, block.labels.index), "the store has this plan"
            found[layer] = stored.x.float().numpy()
        return found
