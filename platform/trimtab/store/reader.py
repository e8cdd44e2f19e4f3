"""Reading a finished activation store, memory-mapped: only the pages of the layer asked for.

Opening checks that every shard is there in its full size; `verify` reads every byte (about
1 GB/s). The store never repairs itself: an error names the shard to delete, and the command
that made the store rebuilds exactly that one.

Cost of `rows`: one copy of a block's rows at one layer (rows x d_model), because several rows
share a prompt; the mapped prompts themselves stay in the page cache.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trimtab.core.errors import StoreError
from trimtab.core.hashing import file_hash
from trimtab.store.layout import (
    PROMPT_OF_ROW,
    ROW_INDEX,
    SCENARIO_IDS,
    layer_tensor,
    shard_path,
)
from trimtab.store.manifest import Manifest, Shard, load_manifest


class StoredRows(NamedTuple):
    """The scenarios of one block at one layer."""

    x: Float[Tensor, "n d_model"]
    """Pooled block outputs, raw, in the dtype they were extracted in."""
    row_index: Int[np.ndarray, " n"]
    """Positions in the scenario table."""
    scenario_ids: list[str]
    """The scenarios, in the order of `x`."""


class MappedShard(NamedTuple):
    """One shard, memory-mapped: nothing is read until it is touched."""

    prompts: dict[int, Float[Tensor, "prompts d_model"]]
    """By layer: pooled block outputs, raw, in the dtype they were extracted in. Read only."""
    prompt_of_row: Int[np.ndarray, " n"]
    """For each scenario, its prompt."""
    row_index: Int[np.ndarray, " n"]
    """For each scenario, its position in the scenario table."""


class ActivationStore:
    """A finished store. Get one from `open_store`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are kept, counted from 0."""
        return self.manifest.layers

    @property
    def poolings(self) -> tuple[str, ...]:
        """The poolings that are kept."""
        return self.manifest.poolings

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks of the plan, in order."""
        return tuple(sorted({shard.block for shard in self.manifest.shards}))

    def rows(self, layer: int, pooling: str, block: int) -> StoredRows:
        """The rows of one block at one layer.

        Raises:
            StoreError: the layer, pooling or block is not kept, or the shard is damaged.
        """
        with self._opened(pooling, block, (layer,)) as shard:
            prompts = shard.get_tensor(layer_tensor(layer))
            x = prompts.index_select(0, shard.get_tensor(PROMPT_OF_ROW))
            row_index = shard.get_tensor(ROW_INDEX).numpy().copy()
            return StoredRows(x, row_index, json.loads(shard.metadata()[SCENARIO_IDS]))

    def mapped(self, pooling: str, block: int, layers: Sequence[int]) -> MappedShard:
        """One block's shard as it lies on disk, without a copy.

        Raises:
            StoreError: the layer, pooling or block is not kept, or the shard is damaged.
        """
        with self._opened(pooling, block, layers) as shard:
            return MappedShard(
                {layer: shard.get_tensor(layer_tensor(layer)) for layer in layers},
                shard.get_tensor(PROMPT_OF_ROW).numpy().copy(),
                shard.get_tensor(ROW_INDEX).numpy().copy(),
            )

    def verify(self) -> None:
        """Recomputes every shard's checksum.

        Raises:
            StoreError: names every shard that is not as it was written.
        """
        damaged = [
            str(self._file(shard))
            for shard in self.manifest.shards
            if file_hash(self._file(shard)) != shard.sha256
        ]
        if damaged:
            raise StoreError(_mend(f"wrong checksum: {', '.join(damaged)}"))

    @contextmanager
    def _opened(self, pooling: str, block: int, layers: Sequence[int]) -> Iterator[Any]:
        for layer in layers:
            self._require("layer", layer, self.layers)
        self._require("pooling", pooling, self.poolings)
        self._require("block", block, self.blocks)
        path = shard_path(self.path, pooling, block)
        try:
            with safe_open(path, "pt") as shard:
                yield shard
        except (SafetensorError, OSError) as error:
            raise StoreError(_mend(f"{path} cannot be read ({error})")) from error

    def _file(self, shard: Shard) -> Path:
        return shard_path(self.path, shard.pooling, shard.block)

    def _require(
        self, what: str, value: int | str, kept: tuple[int, ...] | tuple[str, ...]
    ) -> None:
        if value not in kept:
            raise StoreError(
                f"The store {self.path} does not keep {what} {value}; "
                f"it keeps {', '.join(map(str, kept))}. Choose one of these or extract again."
            )


def open_store(path: Path) -> ActivationStore:
    """Opens a finished store.

    Args:
        path: the store's own folder, named by its identity's hash.

    Raises:
        StoreError: no store, not finished, another format version, or a shard that is missing
            or cut short.
    """
    store = ActivationStore(path, load_manifest(path))
    for shard in store.manifest.shards:
        file = shard_path(path, shard.pooling, shard.block)
        size = file.stat().st_size if file.exists() else 0
        if size != shard.bytes:
            raise StoreError(_mend(f"{file} must have {shard.bytes} bytes, but has {size}"))
    return store


def _mend(what: str) -> str:
    return (
        f"A shard of the activation store is damaged: {what}. "
        "Delete that shard and run the command that made the store again: it is rebuilt."
    )
