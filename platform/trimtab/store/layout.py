"""Where the parts of an activation store lie, and what they are called.

    ROOT/<identity hash>/
        mean/block-00000.safetensors   one shard per pooling and block of the plan
        mean/block-00000.json          the checksum taken when that shard was written
        last/block-00000.safetensors
        manifest.json                  written last: no manifest, not finished

A shard holds, for p prompts and r rows (several scenarios share one prompt):

    layers.0, layers.1, ...   [p, d_model]   pooled output of each block, dtype as extracted
    prompt_of_row             [r] int32      which of the p prompts a row is about
    row_index                 [r] int64      the row's position in the scenario table

and the r scenario ids as JSON in its header.
"""

from pathlib import Path
from typing import Final

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
PROMPT_OF_ROW: Final = "prompt_of_row"
ROW_INDEX: Final = "row_index"
SCENARIO_IDS: Final = "scenario_ids"
"""The only key of a shard's header: safetensors writes several keys in random order, and the
same activations must give the same bytes."""

_LAYER_PREFIX: Final = "layers."


def layer_tensor(layer: int) -> str:
    """Name of a layer's tensor in a shard."""
    return f"{_LAYER_PREFIX}{layer}"


def layer_of(tensor: str) -> int | None:
    """The layer that a tensor of a shard belongs to; None for the two row tensors."""
    number = tensor.removeprefix(_LAYER_PREFIX)
    return int(number) if number != tensor else None


def shard_path(store: Path, pooling: str, block: int) -> Path:
    """The file of one shard."""
    return store / pooling / f"block-{block:05d}.safetensors"


def checksum_path(shard: Path) -> Path:
    """The file beside a shard that says what the shard must be."""
    return shard.with_suffix(".json")


def hook_points(layer: int) -> tuple[str, str]:
    """What Hugging Face and TransformerLens call the output of block `layer`, counted from 0."""
    return f"model.layers.{layer}", f"blocks.{layer}.hook_resid_post"
