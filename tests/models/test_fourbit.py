"""Models in 4 bits: all that should be packed is, nothing else changes, and it survives a save."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from fourbit_toys import (
    WEIGHTS,
    dense_twin,
    save_bf16,
    save_bitsandbytes,
    save_bitsandbytes_apart,
    save_mxfp4,
)
from safetensors.torch import load_file, save_file
from toys import TOYS, VOCABULARY
from transformers import AutoModelForCausalLM, Mxfp4Config, PreTrainedModel

from trimtab.core.errors import ConfigError, ModelError
from trimtab.models.card import ModelConfig
from trimtab.models.fourbit import fused_experts
from trimtab.models.loading import describe, load, load_weights
from trimtab.models.packed import Packing, packings
from trimtab.models.quantize import save_quantized
from trimtab.models.routed import ROUTED

NAMES = ["qwen3", "llama", "qwen3_moe", "llama4", "gpt_oss"]
MOE = ["qwen3_moe", "llama4", "gpt_oss"]


def spec(folder: Path, **fields: object) -> ModelConfig:
    return ModelConfig.model_validate({"id": str(folder), "device": "cpu", **fields})


def nf4(folder: Path, dtype: str = "float32") -> PreTrainedModel:
    return load_weights(spec(folder, precision="nf4", dtype=dtype))


def tokens(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(3, VOCABULARY, (1, count), generator=generator)


def packed_of(model: PreTrainedModel) -> dict[str, tuple[Packing, torch.Tensor]]:
    return {
        f"{prefix}.{name}": (packing, data)
        for prefix, module in model.named_modules()
        for name, packing, data in packings(module)
    }


@pytest.fixture(params=NAMES)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A toy of each architecture in bfloat16."""
    return save_bf16(tmp_path / request.param, request.param)


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    return save_bf16(tmp_path / "moe", "qwen3_moe")


@pytest.fixture
def mxfp4(tmp_path: Path) -> Path:
    return save_mxfp4(tmp_path / "gpt-oss")


def test_linear_layers_and_experts_are_packed_and_the_rest_is_not(published: Path) -> None:
    dense = TOYS[published.name][0].from_pretrained(published)
    model = nf4(published, "bfloat16")
    linear = {n for n, m in dense.named_modules() if type(m) is torch.nn.Linear} - {"lm_head"}
    assert {n for n, m in model.named_modules() if isinstance(m, Linear4bit)} == linear
    assert set(packed_of(model)) == set(fused_experts(dense))
    assert bool(packed_of(model)) == (published.name in MOE)
    floats = {n: p.dtype for n, p in model.named_parameters() if p.is_floating_point()}
    assert set(floats.values()) == {torch.bfloat16}
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= set(floats)


@pytest.mark.parametrize("count", [1, 40])
def test_a_forward_is_that_of_the_dense_model_with_the_same_weights(
    published: Path, count: int
) -> None:
    model = nf4(published)
    dense = dense_twin(model)
    ours, theirs = (m(tokens(count), output_hidden_states=True) for m in (model, dense))
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert (mine - other).norm() <= 1e-6 * other.norm()
    assert (ours.logits - theirs.logits).norm() <= 1e-6 * theirs.logits.norm()


def test_four_bits_are_near_the_model_they_were_made_of(published: Path) -> None:
    plain = load_weights(spec(published, dtype="float32"))
    ours, theirs = (m(tokens(20)).logits for m in (nf4(published), plain))
    assert 1e-4 < (ours - theirs).norm() / theirs.norm() < 0.4


def test_what_is_saved_loads_to_the_same_bits(published: Path, tmp_path: Path) -> None:
    save_quantized(spec(published), tmp_path / "saved")
    saved = load_weights(spec(tmp_path / "saved"))
    made = load_weights(spec(published, precision="nf4"))
    state, again = (m.hf_quantizer.get_state_dict_and_metadata(m)[0] for m in (made, saved))
    assert state.keys() == again.keys()
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert torch.equal(made(tokens(9)).logits, saved(tokens(9)).logits)


def test_a_saved_model_computes_in_the_dtype_asked_for(moe: Path, tmp_path: Path) -> None:
    save_quantized(spec(moe), tmp_path / "saved")
    model = load_weights(spec(tmp_path / "saved", dtype="float32"))
    floats = {p.dtype for p in model.parameters() if p.is_floating_point()}
    assert floats == {torch.float32}
    assert {packing.dtype for packing, _ in packed_of(model).values()} == {torch.float32}
    assert torch.equal(model(tokens(9)).logits, nf4(moe)(tokens(9)).logits)


def test_running_on_a_cpu_changes_no_weight(moe: Path) -> None:
    model = nf4(moe, "bfloat16")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(tokens(5))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_loading_finds_blocks_and_says_what_is_held(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="trimtab.models.loading")
    loaded = load(spec(published, precision="nf4"))
    assert loaded.decoder.num_layers == 4
    assert loaded.held.bytes["nf4"] > 0
    assert "nf4" in caplog.text


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_few_tokens_unpack_only_the_experts_that_they_were_routed_to(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nf4(save_bf16(tmp_path / name, name))
    asked: list[torch.Tensor | None] = []
    unpack = type(next(iter(packed_of(model).values()))[0]).unpack

    def record(self: Packing, data: torch.Tensor, experts: torch.Tensor | None = None) -> object:
        asked.append(experts)
        return unpack(self, data, experts)

    monkeypatch.setattr("trimtab.models.nf4.Nf4.unpack", record)
    model(tokens(1))
    assert len(asked) == 8
    assert all(experts is not None and len(experts) == 2 for experts in asked)
    asked.clear()
    model(tokens(63))
    assert len(asked) == 8


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_routed_experts_give_the_bits_of_the_grouped_whole(
    name: str, dtype: str, tmp_path: Path
) -> None:
    model = nf4(save_bf16(tmp_path / name, name), dtype)
    assert model.config._experts_implementation == ROUTED
    ours = [model(tokens(count)).logits for count in (1, 3, 50)]
    model.set_experts_implementation("grouped_mm")
    theirs = [model(tokens(count)).logits for count in (1, 3, 50)]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_routed_implementation_also_takes_plain_experts(moe: Path) -> None:
    model = load_weights(spec(moe, dtype="float32"))
    theirs = model(tokens(3)).logits
    model.set_experts_implementation(ROUTED)
    assert torch.equal(model(tokens(3)).logits, theirs)


def test_experts_that_blocks_do_not_divide_are_packed_too(tmp_path: Path) -> None:
    kind, config = TOYS["qwen3_moe"]
    odd = config()
    odd.hidden_size, odd.moe_intermediate_size = 40, 4
    kind(odd).to(torch.bfloat16).save_pretrained(tmp_path / "odd")
    model = load_weights(spec(tmp_path / "odd", precision="nf4", dtype="float32"))
    assert model(tokens(7)).logits.isfinite().all()
    dense = kind.from_pretrained(tmp_path / "odd", dtype=torch.float32)
    for name, (packing, data) in packed_of(model).items():
        wanted = dense.get_parameter(name)
        assert (packing.unpack(data) - wanted).norm() < 0.11 * wanted.norm()


def test_mxfp4_is_kept_as_it_is(mxfp4: Path) -> None:
    weights = load_file(mxfp4 / WEIGHTS)
    packed = packed_of(load_weights(spec(mxfp4)))
    assert len(packed) == 8
    for name, (packing, blocks) in packed.items():
        assert torch.equal(blocks, weights[f"{name}_blocks"])
        assert torch.equal(packing.scales, weights[f"{name}_scales"])


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_mxfp4_gives_the_bits_of_the_stock_dequantised_model(
    mxfp4: Path, dtype: str, count: int
) -> None:
    stock = AutoModelForCausalLM.from_pretrained(
        mxfp4, quantization_config=Mxfp4Config(dequantize=True), dtype=getattr(torch, dtype)
    ).eval()
    ours = load_weights(spec(mxfp4, dtype=dtype))
    for name, (packing, blocks) in packed_of(ours).items():
        assert torch.equal(packing.unpack(blocks), stock.get_parameter(name))
    assert torch.equal(ours(tokens(count)).logits, stock(tokens(count)).logits)


def test_mxfp4_saves_as_it_was_published(mxfp4: Path, tmp_path: Path) -> None:
    model = load_weights(spec(mxfp4))
    model.save_pretrained(tmp_path / "again", save_original_format=False)
    described = json.loads((tmp_path / "again/config.json").read_text())
    assert described["quantization_config"]["quant_method"] == "mxfp4"
    before, after = load_file(mxfp4 / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("call", [describe, load])
def test_nf4_over_mxfp4_is_refused(mxfp4: Path, call: Callable[[ModelConfig], object]) -> None:
    with pytest.raises(ConfigError, match=r"4-bit already \(mxfp4\). Drop `precision: nf4`"):
        call(spec(mxfp4, precision="nf4"))


def test_nf4_over_eight_bits_is_refused(moe: Path) -> None:
    config = json.loads((moe / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (moe / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"quantised already \(int8\)"):
        describe(spec(moe, precision="nf4"))


@pytest.mark.parametrize("asked", ["published", "nf4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_bitsandbytes_checkpoint_loads_as_it_is(tmp_path: Path, asked: str, dtype: str) -> None:
    folder = save_bitsandbytes(tmp_path / "bnb", "qwen3")
    made = nf4(tmp_path / "bnb-dense", dtype)
    read = load_weights(spec(folder, precision=asked, dtype=dtype))
    assert torch.equal(read(tokens(9)).logits, made(tokens(9)).logits)


def test_experts_that_bitsandbytes_packed_apart_are_joined_bit_for_bit(tmp_path: Path) -> None:
    folder, dense = save_bitsandbytes_apart(tmp_path / "bnb")
    model = load_weights(spec(folder))
    experts = model.model.layers[2].mlp.experts
    for number in range(8):
        gate, up, down = (
            dense[f"model.layers.2.mlp.experts.{number}.{side}_proj.weight"]
            for side in ("gate", "up", "down")
        )
        assert torch.equal(experts.gate_up_proj[number], torch.cat([gate, up]))
        assert torch.equal(experts.down_proj[number], down)
    assert model(tokens(5)).logits.isfinite().all()


def test_a_checkpoint_that_left_its_experts_in_bfloat16_is_refused(tmp_path: Path) -> None:
    folder = save_bitsandbytes(tmp_path / "bnb", "qwen3_moe")
    with pytest.raises(ModelError, match=r"may stay unquantised, but .*experts\.gate_up_proj"):
        load_weights(spec(folder))


@pytest.mark.parametrize("precision", ["published", "nf4"])
def test_a_missing_expert_is_named(moe: Path, precision: str) -> None:
    weights = load_file(moe / WEIGHTS)
    del weights["model.layers.1.mlp.experts.3.up_proj.weight"]
    save_file(weights, moe / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.experts\.3\.up_proj\.weight is missing"):
        load(spec(moe, precision=precision))


@pytest.mark.parametrize("name", ["llama4", "gpt_oss"])
def test_a_missing_fused_tensor_is_named(name: str, tmp_path: Path) -> None:
    folder = save_bf16(tmp_path / name, name)
    weights = load_file(folder / WEIGHTS)
    gone = next(key for key in weights if key.endswith("experts.down_proj"))
    del weights[gone]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights.*experts\.down_proj"):
        load(spec(folder, precision="nf4"))


def test_a_fused_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = save_bf16(tmp_path / "llama4", "llama4")
    weights = load_file(folder / WEIGHTS)
    key = next(key for key in weights if key.endswith("experts.down_proj"))
    weights[key] = weights[key][:3].clone()
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="do not fit its architecture"):
        load(spec(folder, precision="nf4"))


def test_packed_bytes_that_were_cut_are_refused(moe: Path, tmp_path: Path) -> None:
    save_quantized(spec(moe), tmp_path / "saved")
    weights = load_file(tmp_path / "saved" / WEIGHTS)
    key = "model.layers.0.mlp.experts.down_proj"
    weights[key] = weights[key][:-1].clone()
    save_file(weights, tmp_path / "saved" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="do not fit its architecture"):
        load(spec(tmp_path / "saved"))


def test_a_multimodal_checkpoint_gives_its_text_part_in_four_bits(
    multimodal_folder: Path, llama4_toy: PreTrainedModel, tmp_path: Path
) -> None:
    card, _ = describe(spec(multimodal_folder, precision="nf4"))
    model = nf4(multimodal_folder)
    assert card.parameters == llama4_toy.num_parameters()
    assert not any("vision" in name for name, _ in model.named_modules())
    assert len(packed_of(model)) == 8
    saved = save_quantized(spec(multimodal_folder), tmp_path / "saved")
    assert not any("vision" in key for key in load_file(saved.folder / WEIGHTS))
    again, _ = describe(spec(saved.folder))
    assert (again.precision, again.parameters) == ("nf4", card.parameters)
    assert torch.equal(load_weights(spec(saved.folder))(tokens(9)).logits, model(tokens(9)).logits)


def test_a_card_knows_the_precision_and_only_quantised_ones_enter_the_identity(
    moe: Path, mxfp4: Path, tmp_path: Path
) -> None:
    saved = save_quantized(spec(moe), tmp_path / "saved").folder
    cards = [
        describe(one)[0]
        for one in (
            spec(moe),
            spec(moe, dtype="float32"),
            spec(moe, precision="nf4"),
            spec(saved),
            spec(mxfp4),
        )
    ]
    assert [c.precision for c in cards] == ["bfloat16", "float32", "nf4", "nf4", "mxfp4"]
    assert ["precision" in c.identity for c in cards] == [False, False, True, True, True]
    assert cards[2].identity | {"precision": ""} == cards[0].identity | {"precision": ""}
    assert cards[3].tokenizer_hash == cards[0].tokenizer_hash
    assert len({c.parameters for c in cards[:4]}) == 1
