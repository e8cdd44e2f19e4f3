"""Models of a real shape with random weights, made on the device one parameter at a time.

What a model is held in is what it is made in: a linear layer is packed to NF4 as soon as it is
drawn, a fused expert tensor expert by expert, MXFP4 blocks are drawn as bytes. So making a model
takes what it holds and its largest plain tensor; the layers, packings and hooks are those that
`trimtab.models.fourbit` gives a model that it loads.

bitsandbytes is imported with the first model in four bits, not before.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from trimtab.core.errors import ModelError
from trimtab.models.blocks import Decoder, find_decoder
from trimtab.models.registry import Shape
from trimtab.models.weights import Weights, weigh

Precision = Literal["bf16", "nf4", "mxfp4"]

MADE_FOR = "5.23"
"""transformers whose loading our quantizers extend."""
INDEX = "model.safetensors.index.json"
_BLOCK = re.compile(r"\.layers\.(\d+)\.")
_SCALES = (119, 122)
"""Exponents plus 127, from and below: weights of about 1 / 60, as a width of 2,880 wants them."""


class Made(NamedTuple):
    """A model ready to run."""

    model: PreTrainedModel
    """In evaluation mode, gradients off."""
    decoder: Decoder
    """Its blocks, verified."""
    weights: Weights
    """What it weighs by its configuration."""
    held: dict[str, int]
    """Bytes held, by precision."""


def configuration(shape: Shape) -> PretrainedConfig:
    from trimtab.models.shapes import config  # needs bitsandbytes: loading does

    return config(shape)


def make(shape: Shape, precision: Precision, device: torch.device) -> Made:
    """Makes a model on the device.

    Raises:
        ModelError: four bits on a transformers that our quantizers were not made for, or more
            parameters unquantised than may be.
    """
    packer = None if precision == "bf16" else _packer(precision)
    config = configuration(shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.eval().requires_grad_(requires_grad=False)
    if packer is not None:
        packer.quantizer.preprocess_model(model)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        made = packer.packed(model, name, parameter, generator) if packer else None
        if made is None:
            made = nn.Parameter(drawn(name, parameter.shape, generator), requires_grad=False)
        setattr(module, leaf, made)
    _make_buffers(model, device)
    if packer is None:
        held = {"bfloat16": sum(parameter.nbytes for parameter in model.parameters())}
    else:
        held = packer.finish(model)
    return Made(model, find_decoder(model), weigh(config), held)


def drawn(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Weights that keep activations at about one: norms are ones, biases and sinks zeros."""
    made: Any = {"dtype": torch.bfloat16, "device": generator.device}
    if "norm" in name:
        return torch.ones(shape, **made)
    if len(shape) == 1 or "bias" in name:
        return torch.zeros(shape, **made)
    spread = 1.0 if "embed_tokens" in name else shape[-1] ** -0.5
    return torch.randn(shape, generator=generator, **made).mul_(spread)


def write_checkpoint(folder: Path, config: PretrainedConfig, device: torch.device) -> int:
    """Writes a dense model's checkpoint, a file per block, drawn on the device; its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generator = torch.Generator(device).manual_seed(0)
    files: dict[str, list[str]] = {}
    state = model.state_dict()
    for name in state:
        found = _BLOCK.search(name)
        files.setdefault(f"block-{found[1]:0>3}" if found else "ends", []).append(name)
    for file, names in files.items():
        tensors = {name: drawn(name, state[name].shape, generator).cpu() for name in names}
        save_file(tensors, folder / f"{file}.safetensors", metadata={"format": "pt"})
    where = {name: f"{file}.safetensors" for file, names in files.items() for name in names}
    size = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index), "utf-8")
    return size


def check_transformers(version: str = transformers.__version__) -> None:
    """Refuses four bits on a transformers that our quantizers were not made for.

    Raises:
        ModelError: it is another one.
    """
    if not version.startswith(f"{MADE_FOR}."):
        raise ModelError(
            f"Four bits need transformers {MADE_FOR}, whose loading our quantizers extend, but this "
            f"is {version}. Install transformers=={MADE_FOR}.*, or leave this case out."
        )


class _Packer:
    """Draws and packs what one of our quantizers quantises."""

    def __init__(self, precision: Precision, quantizer: Any) -> None:  # noqa: ANN401
        self.precision, self.quantizer = precision, quantizer

    def packed(
        self, model: nn.Module, name: str, meta: Tensor, generator: torch.Generator
    ) -> nn.Parameter | None:
        """A parameter that carries its packing; None where it stays in bfloat16."""
        from trimtab.models.nf4 import pack, pack_linear
        from trimtab.models.packed import Mxfp4, packed_parameter

        if not self.quantizer.param_needs_quantization(model, name):
            return None
        shape = meta.shape
        if len(shape) == 2:
            layer = model.get_submodule(name.rpartition(".")[0])
            return pack_linear(drawn(name, shape, generator), cast(Any, layer))
        if self.precision == "nf4":
            each = (drawn(name, shape[1:], generator) for _ in range(shape[0]))
            return pack(each, shape, torch.bfloat16)
        blocks, scales = _mxfp4(shape, generator)
        return packed_parameter(blocks, Mxfp4(scales, torch.bfloat16))

    def finish(self, model: PreTrainedModel) -> dict[str, int]:
        """Lets packed experts read as dense ones; bytes held by precision.

        Raises:
            ModelError: more parameters are unquantised than may be.
        """
        from trimtab.models.held import check_quantised, held_bytes

        self.quantizer.postprocess_model(model)
        check_quantised(model, experts_only=self.precision == "mxfp4")
        return held_bytes(model).bytes


def _packer(precision: Precision) -> _Packer:
    check_transformers()
    from trimtab.models import fourbit

    kinds: Any = fourbit  # transformers' dataclasses hide our own signatures from the checker
    if precision == "nf4":
        return _Packer(precision, kinds.Nf4Quantizer(kinds.Nf4Config(), pre_quantized=False))
    return _Packer(precision, kinds.Mxfp4Quantizer(kinds.Mxfp4Config()))


def _mxfp4(shape: torch.Size, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    experts, inner, out = shape
    made: Any = {"dtype": torch.uint8, "device": generator.device, "generator": generator}
    blocks = torch.randint(0, 256, (experts, out, inner // 32, 16), **made)
    return blocks, torch.randint(*_SCALES, (experts, out, inner // 32), **made)


def _make_buffers(model: nn.Module, device: torch.device) -> None:
    """Rotary frequencies, which a model on the meta device has in name only."""
    for module in model.modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            fresh = cast(Any, type(module))(config=module.config)
            for name, buffer in fresh.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
