"""The 23 models of the study: what is known of each of them without asking a hub.

Knowledge, not a fence: any other model works by its id or folder. Parameters are counted with
transformers on the meta device (text part only for Llama 4).

METHODS 4; Li, Teng and Wang 2026, arXiv 2603.15615, "Models".
"""

from typing import Final, Literal, NamedTuple

Group = Literal["base", "instruct", "guard", "other"]


class KnownModel(NamedTuple):
    """One model of the study."""

    id: str
    """Hugging Face id."""
    group: Group
    """As the paper files it."""
    family: str
    """Models that differ in training and not in shape."""
    architecture: str
    """`model_type` of its configuration."""
    billions: float
    """Parameters of the text part, in 1e9."""
    num_layers: int
    """Decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    precision: str
    """What its weights are published in."""
    gated: bool
    """A licence must be accepted on the hub before it can be downloaded."""


class _Shape(NamedTuple):
    family: str
    architecture: str
    billions: float
    num_layers: int
    d_model: int
    precision: str
    gated: bool


_SHAPES: Final = {
    "Qwen3-0.6B": _Shape("Qwen3-0.6B", "qwen3", 0.596, 28, 1024, "bfloat16", gated=False),
    "Qwen3-4B": _Shape("Qwen3-4B", "qwen3", 4.022, 36, 2560, "bfloat16", gated=False),
    "Qwen3-8B": _Shape("Qwen3-8B", "qwen3", 8.191, 36, 4096, "bfloat16", gated=False),
    "Qwen3-14B": _Shape("Qwen3-14B", "qwen3", 14.768, 40, 5120, "bfloat16", gated=False),
    "Qwen3-32B": _Shape("Qwen3-32B", "qwen3", 32.762, 64, 5120, "bfloat16", gated=False),
    "Qwen3-235B": _Shape(
        "Qwen3-235B-A22B", "qwen3_moe", 235.094, 94, 4096, "bfloat16", gated=False
    ),
    "Llama-3.1": _Shape("Llama-3.1-8B", "llama", 8.030, 32, 4096, "bfloat16", gated=True),
    "Llama-4": _Shape("Llama-4-Scout", "llama4", 107.770, 48, 5120, "bfloat16", gated=True),
    "gpt-oss-20b": _Shape("gpt-oss-20b", "gpt_oss", 20.915, 24, 2880, "mxfp4", gated=False),
    "gpt-oss-120b": _Shape("gpt-oss-120b", "gpt_oss", 116.829, 36, 2880, "mxfp4", gated=False),
}
_MODELS: Final[dict[Group, dict[str, str]]] = {
    "base": {
        "Qwen/Qwen3-0.6B-Base": "Qwen3-0.6B",
        "Qwen/Qwen3-4B-Base": "Qwen3-4B",
        "Qwen/Qwen3-8B-Base": "Qwen3-8B",
        "Qwen/Qwen3-14B-Base": "Qwen3-14B",
        "Qwen/Qwen3-235B-A22B": "Qwen3-235B",  # filed as base by the paper; in fact post-trained
        "meta-llama/Llama-3.1-8B": "Llama-3.1",
        "meta-llama/Llama-4-Scout-17B-16E": "Llama-4",
    },
    "instruct": {
        "Qwen/Qwen3-0.6B": "Qwen3-0.6B",
        "Qwen/Qwen3-4B": "Qwen3-4B",
        "Qwen/Qwen3-8B": "Qwen3-8B",
        "Qwen/Qwen3-14B": "Qwen3-14B",
        "Qwen/Qwen3-32B": "Qwen3-32B",
        "Qwen/Qwen3-235B-A22B-Instruct-2507": "Qwen3-235B",
        "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct": "Llama-4",
        "openai/gpt-oss-20b": "gpt-oss-20b",
        "openai/gpt-oss-120b": "gpt-oss-120b",
    },
    "guard": {
        "Qwen/Qwen3Guard-Gen-0.6B": "Qwen3-0.6B",
        "Qwen/Qwen3Guard-Gen-4B": "Qwen3-4B",
        "Qwen/Qwen3Guard-Gen-8B": "Qwen3-8B",
        "meta-llama/Llama-Guard-3-8B": "Llama-3.1",
        "openai/gpt-oss-safeguard-20b": "gpt-oss-20b",
        "openai/gpt-oss-safeguard-120b": "gpt-oss-120b",
    },
}

REGISTRY: Final[dict[str, KnownModel]] = {
    model: KnownModel(model, group, *_SHAPES[shape])
    for group, models in _MODELS.items()
    for model, shape in models.items()
}
"""The 23, by id: base, instruct, guard; small to large within a group."""
