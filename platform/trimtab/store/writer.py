"""Writing an activation store, block by block, from as many processes as there are.

Each shard is written under a temporary name and renamed, so a shard that exists is whole: after
a kill the blocks that are there are kept and the rest is extracted again. `finish` is called once,
when every block is there. The values are stored as they come; NaN is the engine's to notice.

Cost: nothing is copied for writing; the checksum reads the shard once more (about 1 GB/s, from
the page cache) in the process that wrote it, so that no single process hashes a whole store.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.core.config import build
from trimtab.core.errors import OutputError, StoreError
from trimtab.core.files import finished_file, writable_folder, write_json
from trimtab.core.hashing import content_hash, file_hash
from trimtab.store.layout import (
    FORMAT_VERSION,
    MANIFEST,
    PROMPT_OF_ROW,
    ROW_INDEX,
    SCENARIO_IDS,
    checksum_path,
    hook_points,
    layer_of,
    layer_tensor,
    shard_path,
)
from trimtab.store.manifest import Manifest, Shard, load_manifest


class Writer:
    """Writes the store of one identity. Small and picklable: give each worker its own copy."""

    def __init__(self, root: Path, identity: Mapping[str, Any], poolings: Sequence[str]) -> None:
        """Names the store's folder; nothing is written yet.

        Args:
            root: the folder of all stores.
            identity: all that decides the activations (model and revision, data, prompt, layers,
                poolings, precision, plan). JSON values only; the folder is named by its hash.
            poolings: every pooling that each block will be written in.
        """
        assert poolings, "a store keeps at least one pooling"
        self.path = root / content_hash(dict(identity))
        self._identity = dict(identity)
        self._poolings = tuple(poolings)

    @property
    def finished(self) -> bool:
        """Whether the manifest and every shard that it lists are there.

        A shard deleted because it was damaged makes the store unfinished again.
        """
        if not (self.path / MANIFEST).exists():
            return False
        shards = load_manifest(self.path).shards
        return all(shard_path(self.path, s.pooling, s.block).exists() for s in shards)

    def has(self, block: int) -> bool:
        """Whether the block is there in every pooling."""
        return all(shard_path(self.path, p, block).exists() for p in self._poolings)

    def write(
        self,
        block: int,
        pooling: str,
        layers: Mapping[int, Float[Tensor, "prompts d_model"]],
        prompt_of_row: Int[np.ndarray, " rows"],
        row_index: Int[np.ndarray, " rows"],
        scenario_ids: Sequence[str],
    ) -> None:
        """Writes one shard, or nothing if it is already there.

        Args:
            block: number of the plan's block, from 0.
            pooling: one of the writer's poolings.
            layers: pooled outputs by layer, on any device, all of one shape and dtype.
            prompt_of_row: for each row, which of the prompts it is about.
            row_index: for each row, its position in the scenario table.
            scenario_ids: for each row, its scenario.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        path = shard_path(self.path, pooling, block)
        if path.exists():
            return
        assert pooling in self._poolings, f"{pooling=} must be one of {self._poolings}"
        prompts = _num_prompts(layers)
        assert len(prompt_of_row) == len(scenario_ids), "every row has a prompt and an id"
        assert np.all((prompt_of_row >= 0) & (prompt_of_row < prompts)), "rows point at prompts"
        tensors = {layer_tensor(k): v.detach().cpu().contiguous() for k, v in layers.items()}
        tensors[PROMPT_OF_ROW] = torch.from_numpy(prompt_of_row.astype(np.int32))
        tensors[ROW_INDEX] = torch.from_numpy(row_index.astype(np.int64))
        writable_folder(path.parent)
        with finished_file(path) as temporary:
            _save(tensors, temporary, list(scenario_ids))
            shard = Shard(
                block=block,
                pooling=pooling,
                rows=len(row_index),
                prompts=prompts,
                bytes=temporary.stat().st_size,
                sha256=file_hash(temporary),
            )
            write_json(checksum_path(path), shard.model_dump(mode="json"))

    def finish(self, num_blocks: int, provenance: Mapping[str, Any]) -> Path:
        """Writes the manifest and returns the store's folder.

        Args:
            num_blocks: blocks of the plan; all of them must be there.
            provenance: what happened when the store was made. JSON values only.

        Raises:
            StoreError: a shard is missing, damaged, or unlike the others.
        """
        wanted = [(pooling, block) for pooling in self._poolings for block in range(num_blocks)]
        paths = [shard_path(self.path, *key) for key in wanted]
        missing = [str(path.relative_to(self.path)) for path in paths if not path.exists()]
        if missing or not paths:
            raise StoreError(
                f"The store {self.path} needs {len(paths)} shards, but {len(missing)} are not "
                f"there: {', '.join(missing[:5])}. Run the same command again to extract them."
            )
        contents = _common_contents(paths)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            identity=self._identity,
            provenance=dict(provenance),
            layers=contents.layers,
            hook_points=tuple(hook_points(layer) for layer in contents.layers),
            d_model=contents.d_model,
            dtype=contents.dtype,
            poolings=self._poolings,
            shards=tuple(_written(path) for path in paths),
        )
        write_json(self.path / MANIFEST, manifest.model_dump(mode="json"))
        return self.path


class _Contents(NamedTuple):
    layers: tuple[int, ...]
    d_model: int
    dtype: str


def _num_prompts(layers: Mapping[int, Tensor]) -> int:
    kinds = {(tuple(x.shape), x.dtype) for x in layers.values()}
    assert len(kinds) == 1, f"layers must be of one shape and dtype, but got {kinds}"
    return next(iter(layers.values())).shape[0]


def _save(tensors: dict[str, Tensor], path: Path, scenario_ids: list[str]) -> None:
    # safetensors makes files that only their owner can read; a store is shared by a cluster.
    path.touch()
    mode = path.stat().st_mode
    ids = json.dumps(scenario_ids, ensure_ascii=False, separators=(",", ":"))
    try:
        save_file(tensors, path, metadata={SCENARIO_IDS: ids})
    except SafetensorError as error:
        raise OutputError(
            f"The shard {path} could not be written: {error}. "
            "Free some disk space or choose another folder, and run the same command again."
        ) from error
    path.chmod(mode)


def _common_contents(paths: list[Path]) -> _Contents:
    first = _contents(paths[0])
    for path in paths[1:]:
        if (contents := _contents(path)) != first:
            raise StoreError(
                f"All shards must hold the same layers, but {path} holds {contents} "
                f"and {paths[0]} holds {first}. Delete both and run the same command again."
            )
    return first


def _contents(path: Path) -> _Contents:
    try:
        with safe_open(path, "pt") as shard:
            layers = sorted(k for k in map(layer_of, shard.keys()) if k is not None)
            one = shard.get_slice(layer_tensor(layers[0]))
            return _Contents(tuple(layers), one.get_shape()[1], one.get_dtype())
    except SafetensorError as error:
        raise _damaged(path) from error


def _written(path: Path) -> Shard:
    try:
        tree = json.loads(checksum_path(path).read_text("utf-8"))
        return build(Shard, tree, where=str(path))
    except (OSError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> StoreError:
    return StoreError(f"The shard {path} is damaged. Delete it and run the same command again.")
