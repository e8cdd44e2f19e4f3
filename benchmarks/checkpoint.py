"""A mixture-of-experts checkpoint of several GB with random weights, for the memory benchmarks.

A `qwen3_moe` as it is published: one tensor per expert and projection, in bfloat16, a shard per
block. Written block by block, so that making it takes one block's memory (0.3 GB). Never committed.

    python benchmarks/checkpoint.py FOLDER --layers 20    # 6.3 GB
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig

INDEX = "model.safetensors.index.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=20)
    options = parser.parse_args()
    print(f"{write(options.folder, shape(options.layers)) / 1e9:.2f} GB in {options.folder}")


def shape(num_layers: int = 20, *, experts: int = 64, width: int = 1_024) -> Qwen3MoeConfig:
    """Three quarters of the width per expert, eight experts per token, as in Qwen3-235B-A22B's family."""
    fields: dict[str, Any] = {
        "vocab_size": 32_000,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "moe_intermediate_size": 3 * width // 4,
        "num_hidden_layers": num_layers,
        "head_dim": 64,  # a field that its class does not declare
        "num_attention_heads": width // 64,
        "num_key_value_heads": max(1, width // 256),
        "num_experts": experts,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 2_048,
        "tie_word_embeddings": False,
        "architectures": ["Qwen3MoeForCausalLM"],
        "dtype": "bfloat16",
    }
    return Qwen3MoeConfig(**fields)


def write(folder: Path, config: Qwen3MoeConfig) -> int:
    """Writes the checkpoint, its index last; bytes of all tensors. One that is complete is kept."""
    if (folder / INDEX).is_file():
        return int(json.loads((folder / INDEX).read_text("utf-8"))["metadata"]["total_size"])
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    _tokenizer(config.vocab_size).save_pretrained(folder)
    where: dict[str, str] = {}
    size = 0
    for name, shard in _shards(config, torch.Generator().manual_seed(0)):
        save_file(shard, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, name)
        size += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index), "utf-8")
    return size


def _shards(
    config: Qwen3MoeConfig, generator: torch.Generator
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    def random(rows: int, columns: int) -> Tensor:
        drawn = torch.randn(rows, columns, generator=generator).mul_(columns**-0.5)
        return drawn.to(torch.bfloat16)

    d, vocab = config.hidden_size, config.vocab_size
    yield (
        "ends.safetensors",
        {
            "model.embed_tokens.weight": random(vocab, d),
            "lm_head.weight": random(vocab, d),
            "model.norm.weight": torch.ones(d, dtype=torch.bfloat16),
        },
    )
    inner, kv = config.num_attention_heads * 64, config.num_key_value_heads * 64
    for layer in range(config.num_hidden_layers):
        shard = {
            "self_attn.q_proj.weight": random(inner, d),
            "self_attn.k_proj.weight": random(kv, d),
            "self_attn.v_proj.weight": random(kv, d),
            "self_attn.o_proj.weight": random(d, inner),
            "self_attn.q_norm.weight": torch.ones(64, dtype=torch.bfloat16),
            "self_attn.k_norm.weight": torch.ones(64, dtype=torch.bfloat16),
            "input_layernorm.weight": torch.ones(d, dtype=torch.bfloat16),
            "post_attention_layernorm.weight": torch.ones(d, dtype=torch.bfloat16),
            "mlp.gate.weight": random(config.num_experts, d),
        }
        for expert in range(config.num_experts):
            mlp = f"mlp.experts.{expert}"
            shard[f"{mlp}.gate_proj.weight"] = random(config.moe_intermediate_size, d)
            shard[f"{mlp}.up_proj.weight"] = random(config.moe_intermediate_size, d)
            shard[f"{mlp}.down_proj.weight"] = random(d, config.moe_intermediate_size)
        named = {f"model.layers.{layer}.{key}": tensor for key, tensor in shard.items()}
        yield f"block-{layer:03}.safetensors", named


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0", pad_token="w1")


if __name__ == "__main__":
    main()
