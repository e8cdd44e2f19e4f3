"""Toy models for tests: every architecture of the 23, shrunk, with random weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssForCausalLM
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.llama4.modeling_llama4 import Llama4ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM

VOCABULARY = 64
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOYS: dict[str, tuple[type[PreTrainedModel], Callable[[], PretrainedConfig]]] = {
    "qwen3": (Qwen3ForCausalLM, lambda: Qwen3Config(**COMMON)),
    "qwen3_sliding": (
        Qwen3ForCausalLM,
        lambda: Qwen3Config(
            **COMMON, use_sliding_window=True, sliding_window=4, max_window_layers=2
        ),
    ),
    "qwen3_moe": (
        Qwen3MoeForCausalLM,
        lambda: Qwen3MoeConfig(
            **COMMON, moe_intermediate_size=24, num_experts=8, num_experts_per_tok=2
        ),
    ),
    "llama": (LlamaForCausalLM, lambda: LlamaConfig(**COMMON)),
    "llama4": (
        Llama4ForCausalLM,
        lambda: Llama4TextConfig(
            **COMMON,
            intermediate_size_mlp=48,
            num_local_experts=4,
            num_experts_per_tok=1,
            attention_chunk_size=6,
            no_rope_layers=[1, 1, 1, 0],
        ),
    ),
    "gpt_oss": (
        GptOssForCausalLM,
        lambda: GptOssConfig(
            **COMMON, num_local_experts=4, num_experts_per_tok=2, sliding_window=4
        ),
    ),
}


def make_toy(name: str) -> PreTrainedModel:
    """A toy, float32, the same weights every time."""
    kind, config = TOYS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config()).eval().requires_grad_(requires_grad=False)
        for parameter in model.parameters():  # sinks and biases start at 0, which would hide them
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the toys' vocabulary; most words are unknown to it."""
    words = (
        "<pad> <s> </s> <unk> giving stealing is morally a the to your of in from for and at on "
        "with who that after an his her by my into not while before as when it their out up you"
    )
    backend = Tokenizer(
        WordLevel({word: i for i, word in enumerate(words.split())}, unk_token="<unk>")
    )
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")


def save_toy(folder: Path, name: str = "llama") -> Path:
    """A toy and its tokenizer in Hugging Face layout."""
    make_toy(name).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@contextmanager
def watched_head(model: PreTrainedModel) -> Iterator[list[bool]]:
    """Whether the head got its states in one piece, call by call."""
    seen: list[bool] = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _, given, __: seen.append(given[0].is_contiguous())
    )
    with handle:
        yield seen
