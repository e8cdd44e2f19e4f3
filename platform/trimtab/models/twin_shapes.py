"""What the twins look like: each family's shape, shrunk, in the `config.json` its models publish.

A twin keeps what decides which code runs (architecture, tied embeddings, heads per key-value head,
experts, sinks, windows, chunks, layers without positions, scaled rotary embeddings, quantisation)
and the order of sizes between families. It shrinks the rest: widths by about 30, layers by 7 to 12,
lengths so far that a prompt of twelve tokens crosses a window, a chunk and a scaled position.

Widths are multiples of 64 (NF4's block) and experts' of 32 (MXFP4's group). Settings are written
with the names that the hub's files use (`rope_scaling`, `torch_dtype`), not with those that today's
transformers would save, so that reading the published form is rehearsed too.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from transformers import PreTrainedTokenizerBase

from trimtab.models.registry import KnownModel, Shape

VOCABULARY: Final = 1_024
"""Rows of every twin's embedding; as in the originals, a few more than the tokenizer uses."""
WINDOW: Final = 8
"""Tokens of gpt-oss' sliding windows (published: 128) and of Llama 4's chunks (published: 8,192)."""
LENGTH: Final = 2_048
"""Longest input."""


SHAPES: Final[dict[str, Shape]] = {
    "Qwen3-0.6B": Shape("qwen3", 4, 64, 192, 8, 4, 16, VOCABULARY, tied=True),
    "Qwen3-4B": Shape("qwen3", 5, 128, 512, 12, 3, 16, VOCABULARY, tied=True),
    "Qwen3-8B": Shape("qwen3", 5, 128, 384, 8, 2, 16, VOCABULARY),
    "Qwen3-14B": Shape("qwen3", 5, 192, 640, 10, 2, 16, VOCABULARY),
    "Qwen3-32B": Shape("qwen3", 7, 192, 960, 16, 2, 16, VOCABULARY),
    "Qwen3-235B-A22B": Shape(
        "qwen3_moe", 8, 128, 64, 32, 2, 8, VOCABULARY, num_experts=16, top_k=4
    ),
    "Llama-3.1-8B": Shape("llama", 4, 128, 448, 8, 2, 16, VOCABULARY),
    "Llama-4-Scout": Shape("llama4", 6, 128, 128, 10, 2, 16, VOCABULARY, num_experts=16, top_k=1),
    "gpt-oss-20b": Shape("gpt_oss", 4, 128, 128, 16, 2, 8, VOCABULARY, num_experts=16, top_k=4),
    "gpt-oss-120b": Shape("gpt_oss", 6, 128, 128, 16, 2, 8, VOCABULARY, num_experts=32, top_k=4),
}
"""By the registry's family."""


class Ids(NamedTuple):
    """Token ids that a configuration names."""

    bos: int
    """Beginning of a text; Qwen's configurations name the end's."""
    eos: int
    """End of a text."""
    pad: int
    """Padding."""


def published(known: KnownModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The `config.json` of a model's twin."""
    pad, eos = _id(tokenizer, "pad"), _id(tokenizer, "eos")
    bos = pad if tokenizer.bos_token is None else _id(tokenizer, "bos")
    return _CONFIGS[known.architecture](SHAPES[known.family], Ids(bos, eos, pad), tokenizer)


def _id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    found = getattr(tokenizer, f"{name}_token_id")
    assert isinstance(found, int), f"a twin's tokenizer has its {name} token"
    return found


def _common(shape: Shape, ids: Ids) -> dict[str, Any]:
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.d_model,
        "initializer_range": 0.02,
        "intermediate_size": shape.d_mlp,
        "max_position_embeddings": LENGTH,
        "num_attention_heads": shape.num_heads,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def _qwen3(shape: Shape, ids: Ids, _: PreTrainedTokenizerBase) -> dict[str, Any]:
    return _common(shape, ids) | {
        "architectures": ["Qwen3ForCausalLM"],
        "max_window_layers": shape.num_layers,
        "model_type": "qwen3",
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1_000_000,
        "sliding_window": None,
        "use_sliding_window": False,
    }


def _qwen3_moe(shape: Shape, ids: Ids, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return _qwen3(shape, ids, tokenizer) | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "decoder_sparse_step": 1,
        "intermediate_size": 3 * shape.d_model,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": shape.d_mlp,
        "norm_topk_prob": True,
        "num_experts": shape.num_experts,
        "num_experts_per_tok": shape.top_k,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    }


def _llama_rope() -> dict[str, Any]:
    return {
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": LENGTH // 16,
            "rope_type": "llama3",
        },
        "rope_theta": 500_000.0,
    }


def _llama(shape: Shape, ids: Ids, _: PreTrainedTokenizerBase) -> dict[str, Any]:
    llama = {"architectures": ["LlamaForCausalLM"], "mlp_bias": False, "model_type": "llama"}
    return _common(shape, ids) | _llama_rope() | llama | {"pretraining_tp": 1}


def _llama4(shape: Shape, ids: Ids, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    text = {
        "attention_chunk_size": WINDOW,
        "attn_scale": 0.1,
        "attn_temperature_tuning": True,
        "floor_scale": WINDOW,
        "interleave_moe_layer_step": 1,
        "intermediate_size_mlp": 2 * shape.d_mlp,
        "model_type": "llama4_text",
        "no_rope_layers": [],  # as published: every fourth layer is without positions
        "num_experts_per_tok": shape.top_k,
        "num_local_experts": shape.num_experts,
        "output_router_logits": False,
        "pad_token_id": ids.pad,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
        "use_qk_norm": True,
    }
    marks = ("<|image_start|>", "<|image_end|>", "<|patch|>")
    begin, end, image = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "boi_token_index": begin,
        "eoi_token_index": end,
        "image_token_index": image,
        "model_type": "llama4",
        "text_config": _common(shape, ids) | _llama_rope() | text,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": _vision(),
    }


def _vision() -> dict[str, Any]:
    width, output = 32, 64
    return {
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": width,
        "image_size": 28,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,  # what shuffling 2 x 2 patches into one makes
        "model_type": "llama4_vision_model",
        "multi_modal_projector_bias": False,
        "norm_eps": 1e-5,
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": 14,
        "pixel_shuffle_ratio": 0.5,
        "projector_dropout": 0.0,
        "projector_input_dim": output,
        "projector_output_dim": output,
        "rope_theta": 10_000,
        "vision_feature_select_strategy": "default",
        "vision_output_dim": output,
    }


def _gpt_oss(shape: Shape, ids: Ids, _: PreTrainedTokenizerBase) -> dict[str, Any]:
    windows = ("sliding_attention", "full_attention")
    config = _common(shape, ids) | {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "experts_per_token": shape.top_k,
        "initial_context_length": LENGTH // 32,
        "layer_types": [windows[layer % 2] for layer in range(shape.num_layers)],
        "model_type": "gpt_oss",
        "num_experts_per_tok": shape.top_k,
        "num_local_experts": shape.num_experts,
        "output_router_logits": False,
        "pad_token_id": ids.pad,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": LENGTH // 32,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150_000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": WINDOW,
        "swiglu_limit": 7.0,
    }
    unpublished = ("bos_token_id", "torch_dtype")  # gpt-oss' files say neither
    return {key: value for key, value in config.items() if key not in unpublished}


_CONFIGS: Final[dict[str, Callable[[Shape, Ids, PreTrainedTokenizerBase], dict[str, Any]]]] = {
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "llama": _llama,
    "llama4": _llama4,
    "gpt_oss": _gpt_oss,
}
