"""Training rows of a store that lies on other machines, as a Ray Data stream of batches.

On one machine the memory-mapped store is faster (`trimtab.sae.batches.MappedBatches`); this is for
a store that only Ray's workers can read. A worker maps one shard and sends its training rows, all
layers side by side, in the store's own precision. The order of the shards is drawn for each epoch,
and rows are drawn from a buffer of `BUFFER_BATCHES` batches: less mixed than one permutation of all
rows, which is the price of reading each shard once, from end to end. Blocks keep their order, so
that an epoch is the same each time it is asked for.

Cost: each epoch moves every row over the network once; the buffer holds its batches of all layers.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import ray
import ray.data
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.core.seeds import Seed
from trimtab.store.reader import open_store

BUFFER_BATCHES: Final = 8
PIECE_ROWS: Final = 1024
"""Rows of a layer that a worker sends at once."""
X: Final = "x"


class Described(NamedTuple):
    """What a store holds, as a worker sees it."""

    blocks: tuple[int, ...]
    """Numbers of its shards."""
    d_model: int
    """Width of the residual stream."""


class RayBatches:
    """Batches of some rows of a store, read by Ray's workers."""

    def __init__(
        self,
        store: Path,
        pooling: str,
        layers: Sequence[int],
        which: Bool[np.ndarray, " rows"],
        batch_size: int,
        seed: Seed,
    ) -> None:
        """Asks a worker what the store holds.

        Args:
            store: its folder, as the workers see it.
            pooling: one that it keeps.
            layers: some that it keeps.
            which: for each row of the scenario table, whether it is trained on.
            batch_size: rows of a batch.
            seed: names each epoch's order.

        Raises:
            StoreError: the workers find no finished store there, or not these layers.
        """
        self._source = {"store": store, "pooling": pooling, "which": which}
        self._layers = tuple(layers)
        self._num_rows = int(which.sum())
        self._batch_size = batch_size
        self._seed = seed
        self._held = ray.get(ray.remote(describe).remote(store, pooling, self._layers))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers."""
        return self._layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._held.d_model

    def __len__(self) -> int:
        return self._num_rows

    def chunks(self, layer: int) -> Iterator[Float[Tensor, "_ d_model"]]:
        """Every row of a layer once, shard after shard."""
        data = self._read(self._held.blocks, (layer,))
        for batch in data.iter_torch_batches(batch_size=self._batch_size):
            yield _float(batch[X])[:, 0]

    def epoch(self, number: int, start: int) -> Iterator[dict[int, Tensor]]:
        """The batches of one epoch without those of its first `start` rows."""
        seed = self._seed.child(f"epoch-{number}")
        blocks = seed.child("shards").numpy().permutation(self._held.blocks).tolist()
        batches = self._read(blocks, self._layers).iter_torch_batches(
            batch_size=self._batch_size,
            local_shuffle_buffer_size=BUFFER_BATCHES * self._batch_size,
            local_shuffle_seed=seed.child("rows").value % 2**32,
        )
        for i, batch in enumerate(batches):
            if i * self._batch_size >= start:
                yield dict(zip(self._layers, _float(batch[X]).unbind(1), strict=True))

    def _read(self, blocks: Sequence[int], layers: tuple[int, ...]) -> ray.data.Dataset:
        data = ray.data.from_items(
            [{"block": block} for block in blocks], override_num_blocks=len(blocks)
        )
        data.context.execution_options.preserve_order = True
        read = partial(shard_rows, **self._source, layers=layers)
        return data.map_batches(read, batch_size=1, batch_format="numpy")


def describe(store: Path, pooling: str, layers: Sequence[int]) -> Described:
    """What a store holds; runs where the store is.

    Raises:
        StoreError: it is not there, not finished, or lacks a layer or the pooling.
    """
    opened = open_store(store)
    opened.mapped(pooling, opened.blocks[0], layers)
    return Described(opened.blocks, opened.manifest.d_model)


def shard_rows(
    batch: dict[str, Any],
    store: Path,
    pooling: str,
    layers: Sequence[int],
    which: Bool[np.ndarray, " rows"],
) -> Iterator[dict[str, np.ndarray]]:
    """The training rows of one shard, [rows, layers, d_model], some at a time; runs on a worker."""
    shard = open_store(store).mapped(pooling, int(batch["block"][0]), layers)
    prompts = shard.prompt_of_row[which[shard.row_index]]
    for begin in range(0, len(prompts), PIECE_ROWS):
        piece = torch.from_numpy(prompts[begin : begin + PIECE_ROWS])
        x = torch.stack([shard.prompts[layer].index_select(0, piece) for layer in layers], dim=1)
        # numpy has no bfloat16: its bits travel as integers
        yield {X: (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()}


def _float(x: Tensor) -> Float[Tensor, "rows layers d_model"]:
    return (x.view(torch.bfloat16) if x.dtype == torch.int16 else x).float()
