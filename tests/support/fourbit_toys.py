"""Toys as they are published in 4 bits, and dense models to compare packed ones with."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_blockwise, quantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from safetensors.torch import load_file, save_file
from toys import COMMON, make_tokenizer, make_toy
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GptOssConfig,
    PreTrainedModel,
)
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssForCausalLM

WEIGHTS = "model.safetensors"
EXPERTS = ("gate_up_proj", "down_proj")


def save_bf16(folder: Path, name: str) -> Path:
    """A toy in bfloat16, as its architecture is published (experts apart for qwen3_moe)."""
    make_toy(name).to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_bitsandbytes(folder: Path, name: str) -> Path:
    """What `load_in_4bit` and `save_pretrained` of transformers itself make of a toy."""
    dense = save_bf16(folder.with_name(f"{folder.name}-dense"), name)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        dense, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_bitsandbytes_apart(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A qwen3_moe toy as bitsandbytes checkpoints of older transformers hold it, and its experts."""
    save_bitsandbytes(folder, "qwen3_moe")
    kept = load_file(folder / WEIGHTS)
    plain = load_file(folder.with_name(f"{folder.name}-dense") / WEIGHTS)
    kept = {key: tensor for key, tensor in kept.items() if ".experts." not in key}
    dense = {}
    for key in [key for key in plain if ".experts." in key]:
        packed, state = quantize_4bit(plain[key], quant_type="nf4", compress_statistics=True)
        kept[key] = packed
        kept |= {f"{key}.{part}": value for part, value in state.as_dict(packed=True).items()}
        dense[key] = dequantised(packed, state)
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    return folder, dense


def save_mxfp4(folder: Path) -> Path:
    """A gpt-oss toy whose experts are random MXFP4 blocks and scales, as it is published."""
    config = GptOssConfig(
        **COMMON | {"intermediate_size": 64, "hidden_size": 64},
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GptOssForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    weights = load_file(folder / WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    for key in [key for key in weights if key.endswith(EXPERTS)]:
        experts, inner, out = weights.pop(key).shape
        shape = (experts, out, inner // 32)
        weights[f"{key}_blocks"] = _bytes(0, 256, (*shape, 16), generator)
        weights[f"{key}_scales"] = _bytes(118, 124, shape, generator)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    described = json.loads((folder / "config.json").read_text())
    described["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def dense_twin(model: PreTrainedModel) -> PreTrainedModel:
    """The plain model of the same class with a packed model's weights, dequantised."""
    config = type(model.config).from_dict(model.config.to_dict() | {"quantization_config": None})
    del config.quantization_config
    dense = type(model)(config).to(model.dtype).eval()
    dense.load_state_dict(dict(_dense_weights(model)), strict=False)
    return dense.requires_grad_(requires_grad=False)


def dequantised(packed: torch.Tensor, state: Any) -> torch.Tensor:  # noqa: ANN401
    """NF4 by its definition: a table, and a scale for every 64 weights."""
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    codes = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], dim=1).view(-1).int()
    weights = state.code[codes] * scales.repeat_interleave(64)[: len(codes)]
    return weights[: state.shape.numel()].view(state.shape).to(state.dtype)


def _dense_weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            yield f"{name}.weight", dequantised(module.weight, module.weight.quant_state)
            if module.bias is not None:
                yield f"{name}.bias", module.bias
        elif type(module).__name__.endswith("Experts"):
            for part in (*EXPERTS, *(f"{expert}_bias" for expert in EXPERTS)):
                if hasattr(module, part):
                    yield f"{name}.{part}", getattr(module, part)
        elif "parametrizations" not in name:
            for part, value in module.named_parameters(recurse=False):
                yield f"{name}.{part}", value


def _bytes(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=generator).to(torch.uint8)
