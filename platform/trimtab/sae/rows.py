"""Rows of a store at several layers, memory-mapped: gathered by number, in any order.

A sweep's trials all read one store. Nothing is loaded when it is opened: a gather touches the
pages of its own rows, and the page cache, which all processes of a machine share, keeps them.

Several scenarios share one prompt, so a row is a pair (shard, prompt); the same numbers name the
same scenarios at every layer. `LayerRows` is also what tests and small tables use, from tensors
(`from_tensors`).

Cost: 12 bytes a row; a gather copies batch x d_model once, in float32.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.core.errors import StoreError
from trimtab.store.reader import ActivationStore


class LayerRows:
    """n rows at each of some layers."""

    def __init__(
        self,
        shards: Mapping[int, Sequence[Float[Tensor, "_ d_model"]]],
        shard_of_row: Int[np.ndarray, " n"],
        prompt_of_row: Int[np.ndarray, " n"],
    ) -> None:
        """Joins shards.

        Args:
            shards: for each layer, its shards; every layer is cut alike.
            shard_of_row: for each row, the shard it is in.
            prompt_of_row: for each row, its place in that shard.
        """
        self._shards = {layer: list(parts) for layer, parts in shards.items()}
        self._shard = shard_of_row.astype(np.int32)
        self._prompt = prompt_of_row.astype(np.int64)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, in the order given."""
        return tuple(self._shards)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return next(iter(self._shards.values()))[0].shape[1]

    def __len__(self) -> int:
        return len(self._shard)

    def take(self, which: np.ndarray) -> "LayerRows":
        """The rows that an index array or a boolean mask picks; no activation is read."""
        return LayerRows(self._shards, self._shard[which], self._prompt[which])

    def gather(
        self, layer: int, which: Int[np.ndarray, " b"], *, pinned: bool = False
    ) -> Float[Tensor, "b d_model"]:
        """The rows of these numbers at a layer, in this order; float32, on the host.

        Args:
            pinned: into memory that a GPU copies from by itself.
        """
        x = torch.empty(len(which), self.d_model, pin_memory=pinned)
        shard, prompt = self._shard[which], self._prompt[which]
        order = np.argsort(shard, kind="stable")
        edges = np.flatnonzero(np.diff(shard[order], prepend=-1, append=-1))
        for begin, end in itertools.pairwise(edges.tolist()):
            places = order[begin:end]
            part = self._shards[layer][int(shard[places[0]])]
            chosen = part.index_select(0, torch.from_numpy(prompt[places]))
            x[torch.from_numpy(places)] = chosen.float()
        return x


def stored_rows(
    store: ActivationStore, pooling: str, layers: Sequence[int], num_rows: int
) -> LayerRows:
    """The rows of a store, in the order of the scenario table it was made from.

    Args:
        pooling: one that the store keeps.
        layers: layers that the store keeps.
        num_rows: rows of the scenario table.

    Raises:
        StoreError: a layer or pooling that is not kept, a damaged shard, or another table.
    """
    mapped = [store.mapped(pooling, block, layers) for block in store.blocks]
    index = np.concatenate([shard.row_index for shard in mapped])
    if not np.array_equal(np.sort(index), np.arange(num_rows)):
        raise StoreError(
            f"The store {store.path} must hold each of the table's {num_rows} scenarios once, but "
            f"holds {len(index)} rows. Use the scenarios that it was extracted from."
        )
    sizes = [len(shard.row_index) for shard in mapped]
    order = np.argsort(index)
    return LayerRows(
        {layer: [shard.prompts[layer] for shard in mapped] for layer in layers},
        np.repeat(np.arange(len(mapped)), sizes)[order],
        np.concatenate([shard.prompt_of_row for shard in mapped])[order],
    )


def from_tensors(x: Mapping[int, Float[Tensor, "n d_model"]]) -> LayerRows:
    """Rows that lie in memory."""
    n = len(next(iter(x.values())))
    return LayerRows({k: [v] for k, v in x.items()}, np.zeros(n, np.int32), np.arange(n))
