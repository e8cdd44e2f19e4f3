"""The 23 models of the study: what is known of each of them without asking a hub.

Knowledge, not a fence: any other model works by its id or folder. Parameters are counted with
transformers on the meta device (text part only for Llama 4). A shape is enough to build a
configuration (`models.shapes`) and from it the model without its weights.

METHODS 4; Li, Teng and Wang 2026, arXiv 2603.15615, "Models".
"""

from typing import Any, Final, Literal, NamedTuple

Group = Literal["base", "instruct", "guard", "other"]


class Shape(NamedTuple):
    """All dimensions of an architecture's text part."""

    architecture: str
    """`model_type` of its configuration."""
    num_layers: int
    """Decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    d_mlp: int
    """Inner width of the MLP; of one expert in a mixture of experts."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of one head."""
    vocabulary: int
    """Rows of the token embedding."""
    tied: bool = False
    """The head is the token embedding."""
    num_experts: int = 0
    """Routed experts of a block; 0 for a dense MLP."""
    top_k: int = 0
    """Experts that a token is routed to."""


class KnownModel(NamedTuple):
    """One model of the study."""

    id: str
    """Hugging Face id."""
    group: Group
    """As the paper files it."""
    family: str
    """Models that differ in training and not in shape."""
    billions: float
    """Parameters of the text part, in 1e9."""
    precision: str
    """What its weights are published in."""
    gated: bool
    """A licence must be accepted on the hub before it can be downloaded."""
    shape: Shape
    """All dimensions."""
    revision: str = "main"
    """Branch, tag or commit; a run records the commit it met."""

    @property
    def architecture(self) -> str:
        """`model_type` of its configuration."""
        return self.shape.architecture

    @property
    def num_layers(self) -> int:
        """Decoder blocks."""
        return self.shape.num_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.shape.d_model

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return self._asdict() | {
            "architecture": self.architecture,
            "num_layers": self.num_layers,
            "d_model": self.d_model,
            "shape": self.shape._asdict(),
        }


class _Family(NamedTuple):
    billions: float
    precision: str
    gated: bool
    shape: Shape


_QWEN: Final = 151_936
_OSS: Final = 201_088
_FAMILIES: Final = {
    "Qwen3-0.6B": _Family(
        0.596,
        "bfloat16",
        gated=False,
        shape=Shape("qwen3", 28, 1024, 3072, 16, 8, 128, _QWEN, tied=True),
    ),
    "Qwen3-4B": _Family(
        4.022,
        "bfloat16",
        gated=False,
        shape=Shape("qwen3", 36, 2560, 9728, 32, 8, 128, _QWEN, tied=True),
    ),
    "Qwen3-8B": _Family(
        8.191, "bfloat16", gated=False, shape=Shape("qwen3", 36, 4096, 12288, 32, 8, 128, _QWEN)
    ),
    "Qwen3-14B": _Family(
        14.768, "bfloat16", gated=False, shape=Shape("qwen3", 40, 5120, 17408, 40, 8, 128, _QWEN)
    ),
    "Qwen3-32B": _Family(
        32.762, "bfloat16", gated=False, shape=Shape("qwen3", 64, 5120, 25600, 64, 8, 128, _QWEN)
    ),
    "Qwen3-235B-A22B": _Family(
        235.094,
        "bfloat16",
        gated=False,
        shape=Shape("qwen3_moe", 94, 4096, 1536, 64, 4, 128, _QWEN, num_experts=128, top_k=8),
    ),
    "Llama-3.1-8B": _Family(
        8.030, "bfloat16", gated=True, shape=Shape("llama", 32, 4096, 14336, 32, 8, 128, 128_256)
    ),
    "Llama-4-Scout": _Family(
        107.770,
        "bfloat16",
        gated=True,
        shape=Shape("llama4", 48, 5120, 8192, 40, 8, 128, 202_048, num_experts=16, top_k=1),
    ),
    "gpt-oss-20b": _Family(
        20.915,
        "mxfp4",
        gated=False,
        shape=Shape("gpt_oss", 24, 2880, 2880, 64, 8, 64, _OSS, num_experts=32, top_k=4),
    ),
    "gpt-oss-120b": _Family(
        116.829,
        "mxfp4",
        gated=False,
        shape=Shape("gpt_oss", 36, 2880, 2880, 64, 8, 64, _OSS, num_experts=128, top_k=4),
    ),
}
_MODELS: Final[dict[Group, dict[str, str]]] = {
    "base": {
        "Qwen/Qwen3-0.6B-Base": "Qwen3-0.6B",
        "Qwen/Qwen3-4B-Base": "Qwen3-4B",
        "Qwen/Qwen3-8B-Base": "Qwen3-8B",
        "Qwen/Qwen3-14B-Base": "Qwen3-14B",
        # filed as base by the paper; in fact post-trained
        "Qwen/Qwen3-235B-A22B": "Qwen3-235B-A22B",
        "meta-llama/Llama-3.1-8B": "Llama-3.1-8B",
        "meta-llama/Llama-4-Scout-17B-16E": "Llama-4-Scout",
    },
    "instruct": {
        "Qwen/Qwen3-0.6B": "Qwen3-0.6B",
        "Qwen/Qwen3-4B": "Qwen3-4B",
        "Qwen/Qwen3-8B": "Qwen3-8B",
        "Qwen/Qwen3-14B": "Qwen3-14B",
        "Qwen/Qwen3-32B": "Qwen3-32B",
        "Qwen/Qwen3-235B-A22B-Instruct-2507": "Qwen3-235B-A22B",
        "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1-8B",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct": "Llama-4-Scout",
        "openai/gpt-oss-20b": "gpt-oss-20b",
        "openai/gpt-oss-120b": "gpt-oss-120b",
    },
    "guard": {
        "Qwen/Qwen3Guard-Gen-0.6B": "Qwen3-0.6B",
        "Qwen/Qwen3Guard-Gen-4B": "Qwen3-4B",
        "Qwen/Qwen3Guard-Gen-8B": "Qwen3-8B",
        "meta-llama/Llama-Guard-3-8B": "Llama-3.1-8B",
        "openai/gpt-oss-safeguard-20b": "gpt-oss-20b",
        "openai/gpt-oss-safeguard-120b": "gpt-oss-120b",
    },
}

REGISTRY: Final[dict[str, KnownModel]] = {
    model: KnownModel(model, group, family, *_FAMILIES[family])
    for group, models in _MODELS.items()
    for model, family in models.items()
}
"""The 23, by id: base, instruct, guard; small to large within a group."""
