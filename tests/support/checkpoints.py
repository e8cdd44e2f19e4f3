"""Toy checkpoints as they are published: MXFP4, multimodal, tied, in shards."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import TOYS, make_tokenizer, make_toy
from transformers import Llama4Config, PreTrainedModel
from transformers.models.llama4.modeling_llama4 import Llama4ForConditionalGeneration

from trimtab.models.engine import Prompt

SMALL_SHARDS = "60KB"


def save_sharded(folder: Path, name: str, dtype: torch.dtype, **fields: object) -> Path:
    """A toy with its tokenizer, in several shards; `fields` change its configuration."""
    model = make_toy(name)
    if fields:
        kind, config = TOYS[name]
        torch.manual_seed(0)
        model = kind(type(model.config)(**{**config().to_dict(), **fields}))
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder, max_shard_size=SMALL_SHARDS)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_mxfp4(folder: Path) -> Path:
    """gpt_oss with its experts packed, everything else in bfloat16."""
    fields = {"hidden_size": 64, "intermediate_size": 64}
    save_sharded(folder, "gpt_oss", torch.bfloat16, **fields)
    generator = torch.Generator().manual_seed(0)
    where: dict[str, str] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = {}
        for key, tensor in load_file(shard).items():
            if key.endswith(("experts.gate_up_proj", "experts.down_proj")):
                tensors |= _random_mxfp4(key, tensor.shape, generator)
            else:
                tensors[key] = tensor
        save_file(tensors, shard, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, shard.name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": where}), "utf-8")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def _random_mxfp4(key: str, shape: torch.Size, generator: torch.Generator) -> dict[str, Tensor]:
    experts, inner, out = shape
    packed = (experts, out, inner // 32, 16)
    blocks = torch.randint(0, 256, packed, generator=generator).to(torch.uint8)
    scales = torch.randint(118, 124, packed[:3], generator=generator).to(torch.uint8)
    return {f"{key}_blocks": blocks, f"{key}_scales": scales}


def save_multimodal(folder: Path, dtype: torch.dtype, *, tied: bool = False) -> Path:
    """Llama 4 with its vision tower; the text part is the llama4 toy."""
    text: PreTrainedModel = make_toy("llama4")
    config = Llama4Config(
        text_config={**text.config.to_dict(), "tie_word_embeddings": tied},
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "vision_output_dim": 16,
            "projector_input_dim": 16,
            "projector_output_dim": 16,
            "image_size": 28,
        },
        tie_word_embeddings=tied,
        image_token_index=60,
        boi_token_index=61,
        eoi_token_index=62,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Llama4ForConditionalGeneration(config)
    model.language_model.load_state_dict(text.state_dict())
    model.language_model.to(dtype)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def random_prompts(lengths: Sequence[int]) -> list[Prompt]:
    """Prompts of so many tokens, the same ones every time."""
    generator = np.random.default_rng(0)
    return [
        Prompt(generator.integers(3, 60, size=n).tolist(), f"{i}/care-harm")
        for i, n in enumerate(lengths)
    ]
