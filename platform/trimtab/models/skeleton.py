"""A model without its weights, and where in the checkpoint each of them lies.

The model is built on the meta device, its decoder found under the standard names, and every
checkpoint key sent through transformers' own conversion mapping (renamed prefixes, experts that
become slices of a fused tensor), so nothing here is written down per architecture. Of a multimodal
checkpoint the text part finds its tensors, the rest is never read. Every tensor is accounted for
before any is read: a missing one or one of another shape is an error here.

Costs 1.5 s and 380 MB for the shape of Qwen3-235B-A22B, most of it Python objects; no weight is held.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    build_glob_alternation,
    dot_natural_key,
    rename_source_key,
)

from trimtab.core.errors import ModelError
from trimtab.models.blocks import Decoder, locate_decoder
from trimtab.models.mxfp4 import BLOCKS, GROUP, SCALES
from trimtab.models.shards import Stored

READABLE: Final = (None, "mxfp4")
"""Ways in which a checkpoint that streams may be quantised."""


class Piece(NamedTuple):
    """A stored tensor and the part of a weight that it fills."""

    where: tuple[int | slice, ...]
    """Index into the weight; empty is all of it."""
    stored: Stored
    """Its values, or its packed values where there are `scales`."""
    scales: Stored | None = None
    """Exponents of an MXFP4 tensor."""


class Weight(NamedTuple):
    """A parameter or buffer that the checkpoint holds."""

    name: str
    """Within its block, or within the decoder."""
    shape: tuple[int, ...]
    """As the model wants it."""
    dtype: torch.dtype
    """What the model computes in."""
    pieces: list[Piece]
    """What fills it, each byte once, in the order of the files."""

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


class Skeleton(NamedTuple):
    """A decoder on the meta device, and its weights' places."""

    decoder: Decoder
    """Only buffers that no checkpoint holds (rotary frequencies) are real, on the CPU."""
    blocks: list[list[Weight]]
    """Of each block."""
    beside: list[Weight]
    """Of the decoder outside its blocks: the embedding, the final norm."""


class _Source(NamedTuple):
    stored: Stored
    converter: WeightConverter | None
    pattern: str | None
    scales: Stored | None = None


def build_skeleton(
    config: PretrainedConfig, dtype: torch.dtype, stored: Mapping[str, Stored]
) -> Skeleton:
    """Builds the model on the meta device and finds its weights in the checkpoint.

    Args:
        config: the checkpoint's configuration.
        dtype: what the model computes in.
        stored: the checkpoint's tensors by key.

    Raises:
        ModelError: the checkpoint is quantised in a way that cannot stream, lacks weights of the
            architecture, or holds them in another shape; or the architecture is not supported.
    """
    _refuse_quantised(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
    model = cast(PreTrainedModel, model.eval().requires_grad_(requires_grad=False))
    decoder = locate_decoder(model)
    prefix = next(f"{name}." for name, m in model.named_modules() if m is decoder.module).lstrip(
        "."
    )
    weights = [
        weight._replace(name=weight.name.removeprefix(prefix))
        for weight in _weights(model, prefix, dtype, stored)
    ]
    _rebuild_buffers(decoder, {weight.name for weight in weights})
    blocks: list[list[Weight]] = [[] for _ in range(decoder.num_layers)]
    beside = []
    for weight in weights:
        owner, _, inner = weight.name.removeprefix(f"{decoder.block_list}.").partition(".")
        if weight.name.startswith(f"{decoder.block_list}."):
            blocks[int(owner)].append(weight._replace(name=inner))
        else:
            beside.append(weight)
    return Skeleton(decoder, blocks, beside)


def _refuse_quantised(config: PretrainedConfig) -> None:
    for owner in (config, config.get_text_config()):
        entry: Any = getattr(owner, "quantization_config", None) or {}
        method = entry.get("quant_method") if isinstance(entry, dict) else entry.quant_method
        if method not in READABLE:
            raise ModelError(
                f"Weights can stream in any plain dtype or in MXFP4, but this checkpoint is "
                f"quantised with {method}. Set `source: resident` (4-bit models fit), or give the "
                "checkpoint as it was published."
            )


def _weights(
    model: PreTrainedModel, prefix: str, dtype: torch.dtype, stored: Mapping[str, Stored]
) -> list[Weight]:
    """The decoder's weights, under their full names."""
    state = {name: x for name, x in model.state_dict().items() if name.startswith(prefix)}
    sources = _sources(model, stored)
    missing = sorted((name for name in state if name not in sources), key=dot_natural_key)
    if missing:
        raise ModelError(
            f"The checkpoint lacks {len(missing)} weights of its architecture, {missing[0]} among "
            "them. Download or save it again."
        )
    dtypes = _dtypes(model, dtype, state)
    weights = []
    for name, meta in state.items():
        pieces = _pieces(name, sources[name])
        _check_shapes(name, meta, pieces)
        pieces.sort(key=lambda piece: (piece.stored.file, piece.stored.start))
        weights.append(Weight(name, tuple(meta.shape), dtypes[name], pieces))
    return weights


def _sources(model: PreTrainedModel, stored: Mapping[str, Stored]) -> dict[str, list[_Source]]:
    """By name in the model, the stored tensors that go into it, experts in their order."""
    state = model.state_dict()
    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}

    def place(key: str) -> tuple[str, str | None]:
        target, pattern = rename_source_key(
            key, renamings, converters, model.base_model_prefix, state
        )
        if target not in state and key in state:  # as transformers: then it was no key to rename
            return rename_source_key(key, [], [], model.base_model_prefix, state)
        return target, pattern

    found: dict[str, list[_Source]] = {}
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = place(key)
        scales = None
        if name not in state and key.endswith(BLOCKS):
            scales = stored.get(key.removesuffix(BLOCKS) + SCALES)
            name, pattern = place(key.removesuffix(BLOCKS)) if scales else (name, None)
        if name in state:
            converter = by_pattern[pattern] if pattern else None
            found.setdefault(name, []).append(_Source(stored[key], converter, pattern, scales))
    return found


def _pieces(name: str, sources: Sequence[_Source]) -> list[Piece]:
    converter = sources[0].converter
    if converter is None:
        return [Piece((), source.stored, source.scales) for source in sources]
    kinds = tuple(type(operation) for operation in converter.operations)
    if kinds not in ((MergeModulelist,), (Concatenate,), (MergeModulelist, Concatenate)):
        raise ModelError(
            f"{name} is put together by {' and '.join(kind.__name__ for kind in kinds)}, and only "
            "experts that are merged and tensors that are concatenated can be read in place. Set "
            "`source: resident`."
        )
    merged, last = MergeModulelist in kinds, converter.operations[-1]
    axis = last.dim - int(merged) if isinstance(last, Concatenate) else None
    return list(_slices(converter, sources, axis, merged=merged))


def _slices(
    converter: WeightConverter, sources: Sequence[_Source], axis: int | None, *, merged: bool
) -> Iterator[Piece]:
    """Experts along the first dimension, what is concatenated along `axis` of each."""
    start = 0
    for pattern in converter.source_patterns:
        parts = [source.stored for source in sources if source.pattern == pattern]
        for expert, part in enumerate(parts):
            where: tuple[int | slice, ...] = ()
            if axis is not None:
                where = (*(slice(None),) * axis, slice(start, start + part.shape[axis]))
            yield Piece((expert, *where) if merged else where, part)
            if not merged and axis is not None:
                start += part.shape[axis]
        if merged and axis is not None and parts:
            start += parts[0].shape[axis]


def _check_shapes(name: str, meta: Tensor, pieces: Sequence[Piece]) -> None:
    filled = 0
    for piece in pieces:
        shape = tuple(piece.stored.shape)
        if piece.scales is not None:
            experts, out, groups = piece.scales.shape
            assert shape == (experts, out, groups, GROUP // 2), "two weights in a byte"
            shape = (experts, groups * GROUP, out)
        try:
            wanted = tuple(meta[piece.where].shape)
        except IndexError:
            wanted = ()
        if shape != wanted:
            raise ModelError(
                f"{piece.stored.key} in {piece.stored.file} must have shape {wanted} to fill "
                f"{name} of the model, but has {shape}. Is the configuration this checkpoint's own?"
            )
        filled += math.prod(shape)
    if filled != meta.numel():
        raise ModelError(
            f"The checkpoint holds {filled} of the {meta.numel()} values of {name}. Download or "
            "save it again."
        )


def _dtypes(
    model: PreTrainedModel, dtype: torch.dtype, state: Mapping[str, Tensor]
) -> dict[str, torch.dtype]:
    """What transformers would load each weight as; some norms stay in float32."""
    plan = model._get_dtype_plan(dtype)
    if not plan:
        return {name: meta.dtype for name, meta in state.items()}
    pattern, glob_of, _ = build_glob_alternation(list(plan))
    dtypes = {}
    for name, meta in state.items():
        match = pattern.search(name)
        dtypes[name] = plan[glob_of[cast(str, match.lastgroup)]] if match else meta.dtype
    return dtypes


def _rebuild_buffers(decoder: Decoder, in_checkpoint: set[str]) -> None:
    """Makes real what is in no checkpoint: the rotary embedding's frequencies."""
    for path, module in decoder.module.named_modules():
        lost = [
            name
            for name, _ in module.named_buffers(recurse=False)
            if ".".join(filter(None, (path, name))) not in in_checkpoint
        ]
        if not lost:
            continue
        if next(module.parameters(), None) is not None:
            raise ModelError(
                f"{type(module).__name__} keeps {lost[0]}, which no checkpoint holds, beside its "
                "weights. This architecture cannot stream; set `source: resident`."
            )
        config = getattr(module, "config", decoder.module.config)
        fresh = cast(type[nn.Module], type(module))(config=config)
        for name in lost:
            setattr(module, name, fresh.get_buffer(name))
