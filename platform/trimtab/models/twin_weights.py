"""The twins' weights: random, each from a seed of its own name, and in MXFP4 where published so.

A parameter's numbers depend on the seed, its name and its shape only, so that nothing else that
changes in a model shifts them.
"""

from pathlib import Path
from typing import Final

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from trimtab.core.seeds import Seed
from trimtab.models.mxfp4 import BLOCKS, SCALES
from trimtab.models.mxfp4_pack import pack

WEIGHTS: Final = "model.safetensors"
_NOISE: Final = 0.1
"""Standard deviation of norms around 1."""
_SHIFT: Final = 0.3
"""Standard deviation of biases and sinks, which would hide in a test if they were 0."""


def random_model(folder: Path, seed: Seed) -> PreTrainedModel:
    """The class that a folder's configuration names, with random weights in bfloat16."""
    config = AutoConfig.from_pretrained(folder)
    assert config.architectures is not None, "a twin's configuration names its class"
    kind = getattr(transformers, config.architectures[0])
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = kind._from_config(config, dtype=torch.bfloat16)
    model.eval().requires_grad_(requires_grad=False)
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(seed.child(name).value)
        parameter.copy_(_drawn(name, parameter.shape, generator))
    return model


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Weights that keep every layer's share in the residual stream visible and finite.

    Embeddings have standard deviation 1, and a matrix maps what a norm gives to about 1 again.
    """
    drawn = torch.randn(shape, generator=generator)
    if "bias" in name or "sinks" in name:
        return _SHIFT * drawn
    if len(shape) == 1:
        return 1 + _NOISE * drawn
    return drawn if "embed_tokens" in name else drawn * min(shape[-2:]) ** -0.5


def pack_experts(path: Path) -> None:
    """Rewrites a gpt-oss checkpoint with its fused expert weights as blocks and scales."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(path).items():
        if name.endswith((".gate_up_proj", ".down_proj")):
            blocks, scales = pack(tensor)
            tensors |= {name + BLOCKS: blocks.contiguous(), name + SCALES: scales.contiguous()}
        else:
            tensors[name] = tensor
    save_file(tensors, path, metadata={"format": "pt"})
