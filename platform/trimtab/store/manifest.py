"""What a finished store says about itself.

The manifest is the last file written, so that its presence means that every shard is there. It
carries the identity (all that the folder's name was hashed from), the provenance (what happened
when it was made), and for each shard its size and checksum.

It reads no shard: `trimtab.store.reader` does.
"""

import json
from pathlib import Path
from typing import Any

from trimtab.core.config import Config, build
from trimtab.core.errors import ConfigError, StoreError
from trimtab.store.layout import FORMAT_VERSION, MANIFEST


class Shard(Config):
    """One file of one pooling and block, as it was when it was written."""

    block: int
    """Number of the plan's block, from 0."""
    pooling: str
    """How a prompt's tokens became one vector; also the shard's folder."""
    rows: int
    """Scenarios in the block."""
    prompts: int
    """Distinct prompts in the block."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Checksum of the file, in hex."""


class Manifest(Config):
    """All that is known about a store without opening a shard."""

    format_version: int
    """Version of the layout; this code reads exactly `FORMAT_VERSION`."""
    identity: dict[str, Any]
    """What made the store; its content hash is the folder's name."""
    provenance: dict[str, Any]
    """Model revision, tokenizer hash, precision, token budgets really used, and the like."""
    layers: tuple[int, ...]
    """The blocks whose outputs are kept, counted from 0."""
    hook_points: tuple[tuple[str, str], ...]
    """Both names of each layer, in the order of `layers`."""
    d_model: int
    """Width of an activation."""
    dtype: str
    """Element type as safetensors writes it, for example `BF16`."""
    poolings: tuple[str, ...]
    """Every pooling that is kept."""
    shards: tuple[Shard, ...]
    """Every file, by pooling and block."""


def load_manifest(store: Path) -> Manifest:
    """Reads `manifest.json`.

    Raises:
        StoreError: there is no store, it is not finished, it is of another format version, or
            the manifest is damaged.
    """
    path = store / MANIFEST
    if not store.is_dir():
        raise StoreError(f"There is no activation store at {store}: extract it first.")
    if not path.exists():
        raise StoreError(
            f"The activation store {store} is not finished: it has no {MANIFEST}. "
            "Run the command that began it again; it keeps the blocks that are there."
        )
    try:
        tree = json.loads(path.read_text("utf-8"))
        version = tree["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path} must be of format version {FORMAT_VERSION}, but is of {version}. "
            "Read it with the trimtab that wrote it, or extract it again into another folder."
        )
    try:
        return build(Manifest, tree, where=str(path))
    except ConfigError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path} is damaged. Delete it and run the command that wrote it again: "
        "the shards are kept and the manifest is written anew."
    )
