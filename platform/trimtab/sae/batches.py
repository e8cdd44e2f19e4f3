"""Batches of training rows: an own permutation for each epoch, read ahead in one thread.

The rows of a batch are the same at every layer. A permutation depends on the seed and the epoch's
number alone, so training resumes in the middle of an epoch with the rows it would have seen. An
epoch's last batch is short where the batch size does not divide the rows: no row is left out.

`Batches` is what training asks for; `MappedBatches` is the one on memory-mapped rows. Rows on other
machines come through Ray Data (`trimtab.stream.sae_batches`).

Cost: two batches of each layer in float32, the one in use and the one being read; pinned for a GPU,
whose copy would otherwise pass through memory of the driver's at a fraction of the link's speed.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.core.seeds import Seed
from trimtab.sae.rows import LayerRows
from trimtab.sae.start import CHUNK_ROWS

Item = TypeVar("Item")


@runtime_checkable
class Batches(Protocol):
    """Training rows of some layers, epoch by epoch."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    def __len__(self) -> int:
        """Rows of an epoch."""
        ...

    def chunks(self, layer: int) -> Iterator[Float[Tensor, "_ d_model"]]:
        """Every row of a layer once, in a fixed order."""
        ...

    def epoch(self, number: int, start: int) -> Iterator[dict[int, Tensor]]:
        """An epoch's batches by layer, raw, [rows, d_model], without its first `start` rows."""
        ...


class MappedBatches:
    """Batches of memory-mapped rows."""

    def __init__(
        self, rows: LayerRows, batch_size: int, seed: Seed, *, pinned: bool = False
    ) -> None:
        """Reads nothing.

        Args:
            rows: of the layers.
            batch_size: rows of a batch.
            seed: names each epoch's order.
            pinned: batches lie in memory that a GPU copies from by itself.
        """
        self._rows = rows
        self._pinned = pinned
        self._batch_size = batch_size
        self._seed = seed

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the rows."""
        return self._rows.layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._rows.d_model

    def __len__(self) -> int:
        return len(self._rows)

    def chunks(self, layer: int) -> Iterator[Float[Tensor, "_ d_model"]]:
        """Every row once, in the rows' own order."""
        for begin in range(0, len(self), CHUNK_ROWS):
            which = np.arange(begin, min(begin + CHUNK_ROWS, len(self)))
            yield self._rows.gather(layer, which)

    def epoch(self, number: int, start: int) -> Iterator[dict[int, Tensor]]:
        """The batches of one epoch, the next one being read while one is in use."""
        order = self._seed.child(f"epoch-{number}").numpy().permutation(len(self))
        return read_ahead(self._gathered(order[start:]))

    def _gathered(self, order: np.ndarray) -> Iterator[dict[int, Tensor]]:
        for begin in range(0, len(order), self._batch_size):
            which = order[begin : begin + self._batch_size]
            yield {
                layer: self._rows.gather(layer, which, pinned=self._pinned) for layer in self.layers
            }


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; one thread prepares the next while one is in use.

    That thread's own products run on it alone: a second team of threads, spinning between two
    reads, would take a quarter of a small step's time.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1, "read-ahead", torch.set_num_threads, (1,)) as reader:
            coming = reader.submit(next, items, None)
            while (item := coming.result()) is not None:
                coming = reader.submit(next, items, None)
                yield item
    finally:
        torch.set_num_threads(threads)
