"""What a model holds is counted from its tensors."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fourbit_toys import save_bf16, save_mxfp4
from toys import COMMON, make_toy
from transformers import PreTrainedModel, Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from trimtab.core.errors import ModelError
from trimtab.models.card import ModelConfig
from trimtab.models.held import Held, check_quantised, held_bytes
from trimtab.models.loading import load_weights


def nf4(folder: Path, name: str) -> PreTrainedModel:
    save_bf16(folder, name)
    return load_weights(ModelConfig(id=str(folder), precision="nf4", device="cpu"))


def test_a_plain_model_holds_four_bytes_a_parameter() -> None:
    model = make_toy("llama")
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    held = held_bytes(model)
    assert held.parameters == {"float32": model.num_parameters()}
    assert held.bytes == {"float32": 4 * model.num_parameters() + buffers}


def test_tied_weights_count_once() -> None:
    tied, free = (
        Qwen3ForCausalLM(Qwen3Config(**COMMON, tie_word_embeddings=tie)) for tie in (True, False)
    )
    assert held_bytes(free).total - held_bytes(tied).total == 4 * 64 * 32


def test_nf4_bytes_are_codes_scales_and_what_scales_them(tmp_path: Path) -> None:
    held = held_bytes(nf4(tmp_path, "qwen3_moe"))
    layer = 32 * (32 + 16 + 16 + 32), 8 * 48 * 32, 8 * 32 * 24
    assert held.parameters["nf4"] == 4 * sum(layer)
    codes, scales = 4 * sum(layer) // 2, 4 * sum(layer) // 64
    # at most 192 scales a tensor: one of their own each, an offset, and the tables of 16 and 256
    nested = 4 * 6 * (4 + 4 + 4 * 16 + 4 * 256)
    assert held.bytes["nf4"] == codes + scales + nested
    assert set(held.bytes) == {"nf4", "bfloat16", "float32"}
    assert held.total == sum(held.bytes.values())


def test_mxfp4_takes_the_bytes_of_its_checkpoint(tmp_path: Path) -> None:
    save_mxfp4(tmp_path)
    held = held_bytes(load_weights(ModelConfig(id=str(tmp_path), device="cpu")))
    weights = 4 * 4 * (64 * 128 + 64 * 64)
    assert held.parameters["mxfp4"] == weights
    assert held.bytes["mxfp4"] == weights // 2 + weights // 32


def test_every_parameter_is_counted(tmp_path: Path) -> None:
    for name in ("qwen3_moe", "llama4", "gpt_oss"):
        held = held_bytes(nf4(tmp_path / name, name))
        assert sum(held.parameters.values()) == make_toy(name).num_parameters()


def test_what_transformers_own_kernels_hold_counts_as_mxfp4() -> None:
    def as_kernels_take_it(tensor: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(storage=SimpleNamespace(data=tensor))

    module = torch.nn.Module()
    for name in ("gate_up_proj", "down_proj"):
        blocks, scales = torch.zeros(4, 16, 8, dtype=torch.uint8), torch.zeros(4, 8)
        setattr(module, name, as_kernels_take_it(blocks))
        config = SimpleNamespace(weight_scale=as_kernels_take_it(scales.byte()))
        setattr(module, f"{name}_precision_config", config)
    held = held_bytes(module)
    assert held == Held({"mxfp4": 2 * (512 + 32)}, {"mxfp4": 2 * 1_024})


def test_a_record_has_a_plain_form_and_a_line() -> None:
    held = Held({"nf4": 2_000_000, "bfloat16": 1_000_000}, {"nf4": 4_000_000, "bfloat16": 500_000})
    assert held.plain() == {
        "nf4_bytes": 2_000_000,
        "bfloat16_bytes": 1_000_000,
        "nf4_parameters": 4_000_000,
        "bfloat16_parameters": 500_000,
        "total_bytes": 3_000_000,
    }
    assert str(held).startswith("0.003 GB held: nf4 0.002 GB (4.0 M parameters)")


def test_a_packed_model_passes_and_its_largest_dense_part_is_named_otherwise(
    tmp_path: Path,
) -> None:
    model = nf4(tmp_path, "llama4")
    check_quantised(model)
    block = model.model.layers[2].feed_forward
    block.experts = make_toy("llama4").model.layers[2].feed_forward.experts
    with pytest.raises(ModelError, match=r"layers\.2\.feed_forward\.experts\.gate_up_proj"):
        check_quantised(model)
    check_quantised(model, kept=["model.layers.2.feed_forward.experts"])


def test_only_experts_count_where_only_experts_are_packed(tmp_path: Path) -> None:
    save_mxfp4(tmp_path)
    model = load_weights(ModelConfig(id=str(tmp_path), device="cpu"))
    check_quantised(model, experts_only=True)
    with pytest.raises(ModelError, match="self_attn"):
        check_quantised(model)
    with pytest.raises(ModelError, match=r"experts\.gate_up_proj"):
        check_quantised(make_toy("gpt_oss"), experts_only=True)


def test_a_model_that_was_never_quantised_is_refused() -> None:
    with pytest.raises(ModelError, match="may stay unquantised"):
        check_quantised(make_toy("qwen3").to(torch.bfloat16))
