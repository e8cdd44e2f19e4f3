"""From a shape to a configuration: what is needed to build one of the 23 without a network.

Dimensions come from the registry. What is left (sliding windows, attention chunks, NoPE layers,
which blocks are mixtures) is what transformers' own classes say by default, and they were written
for these models; where a family departs from that default and a forward would notice, it stands
here. What only long texts or training would notice does not.
"""

from collections.abc import Callable
from typing import Any, Final

from transformers import (
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from trimtab.models.registry import KnownModel, Shape

_QWEN_ROTARY: Final = {"rope_type": "default", "rope_theta": 1e6}
_LLAMA_ROTARY: Final = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8_192,
}


def config(shape: Shape) -> PretrainedConfig:
    """A shape as transformers wants it said, in bfloat16; of Llama 4 the text part."""
    common = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied,
        "dtype": "bfloat16",
    }
    return _BUILD[shape.architecture](shape, common)


def known_config(known: KnownModel) -> PretrainedConfig:
    """A model of the study as it is published: its shape, and MXFP4 where that is what it is in."""
    made = config(known.shape)
    if known.precision == "mxfp4":
        made.quantization_config = {"quant_method": "mxfp4"}  # pyright: ignore[reportAttributeAccessIssue]
    return made


def _qwen3(shape: Shape, common: dict[str, Any]) -> PretrainedConfig:
    return Qwen3Config(
        **common,
        intermediate_size=shape.d_mlp,
        max_position_embeddings=40_960,
        rope_parameters=dict(_QWEN_ROTARY),
    )


def _qwen3_moe(shape: Shape, common: dict[str, Any]) -> PretrainedConfig:
    return Qwen3MoeConfig(
        **common,
        intermediate_size=3 * shape.d_model,  # of dense blocks, of which there are none
        moe_intermediate_size=shape.d_mlp,
        num_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
        norm_topk_prob=True,
        max_position_embeddings=40_960,
        rope_parameters=dict(_QWEN_ROTARY),
    )


def _llama(shape: Shape, common: dict[str, Any]) -> PretrainedConfig:
    return LlamaConfig(
        **common,
        intermediate_size=shape.d_mlp,
        rms_norm_eps=1e-5,
        max_position_embeddings=131_072,
        rope_parameters=dict(_LLAMA_ROTARY),
    )


def _llama4(shape: Shape, common: dict[str, Any]) -> PretrainedConfig:
    return Llama4TextConfig(
        **common,
        intermediate_size=shape.d_mlp,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
    )


def _gpt_oss(shape: Shape, common: dict[str, Any]) -> PretrainedConfig:
    return GptOssConfig(
        **common,
        intermediate_size=shape.d_mlp,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
    )


_BUILD: Final[dict[str, Callable[[Shape, dict[str, Any]], PretrainedConfig]]] = {
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "llama": _llama,
    "llama4": _llama4,
    "gpt_oss": _gpt_oss,
}
