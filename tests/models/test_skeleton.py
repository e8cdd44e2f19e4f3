"""Models without weights, and the places of their weights."""

from pathlib import Path

import pytest
import torch
from checkpoints import save_multimodal, save_mxfp4, save_sharded
from toys import TOYS, make_toy
from transformers import AutoConfig

from trimtab.core.errors import ModelError
from trimtab.models.shards import checkpoint_files, read_headers
from trimtab.models.skeleton import Skeleton, build_skeleton


def skeleton_of(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Skeleton:
    return build_skeleton(
        AutoConfig.from_pretrained(folder), dtype, read_headers(checkpoint_files(str(folder)))
    )


@pytest.mark.parametrize("name", TOYS)
def test_every_weight_of_every_block_has_its_place(tmp_path: Path, name: str) -> None:
    skeleton = skeleton_of(save_sharded(tmp_path / name, name, torch.bfloat16))
    decoder = make_toy(name).get_submodule("model")
    for block, weights in zip(decoder.layers, skeleton.blocks, strict=True):
        wanted = {key: tuple(x.shape) for key, x in block.state_dict().items()}
        assert {weight.name: weight.shape for weight in weights} == wanted
    assert {weight.name for weight in skeleton.beside} == {"embed_tokens.weight", "norm.weight"}


@pytest.mark.parametrize("name", TOYS)
def test_no_byte_of_a_weight_is_on_the_machine_and_rotary_frequencies_are(
    tmp_path: Path, name: str
) -> None:
    skeleton = skeleton_of(save_sharded(tmp_path / name, name, torch.bfloat16))
    assert all(p.is_meta for p in skeleton.decoder.module.parameters())
    theirs = dict(make_toy(name).get_submodule("model").named_buffers())
    ours = dict(skeleton.decoder.module.named_buffers())
    assert ours.keys() == theirs.keys()
    assert ours
    for key, buffer in ours.items():
        assert torch.equal(buffer, theirs[key])


def test_an_expert_goes_to_its_slice_of_the_fused_tensor(tmp_path: Path) -> None:
    skeleton = skeleton_of(save_sharded(tmp_path / "toy", "qwen3_moe", torch.bfloat16))
    fused = next(w for w in skeleton.blocks[1] if w.name == "mlp.experts.gate_up_proj")
    assert fused.shape == (8, 48, 32)
    where = {piece.stored.key: piece.where for piece in fused.pieces}
    assert len(where) == 16
    prefix = "model.layers.1.mlp.experts"
    assert where[f"{prefix}.5.gate_proj.weight"] == (5, slice(0, 24))
    assert where[f"{prefix}.5.up_proj.weight"] == (5, slice(24, 48))


def test_eleven_experts_are_counted_as_numbers_and_not_as_words(tmp_path: Path) -> None:
    folder = save_sharded(tmp_path / "toy", "qwen3_moe", torch.bfloat16, num_experts=11)
    fused = next(w for w in skeleton_of(folder).blocks[0] if w.name == "mlp.experts.down_proj")
    for piece in fused.pieces:
        assert f".experts.{piece.where[0]}." in piece.stored.key


def test_only_the_text_part_of_a_multimodal_checkpoint_has_places(tmp_path: Path) -> None:
    skeleton = skeleton_of(save_multimodal(tmp_path / "scout", torch.bfloat16))
    keys = [p.stored.key for block in skeleton.blocks for w in block for p in w.pieces]
    assert keys
    assert all(key.startswith("language_model.model.layers.") for key in keys)


def test_packed_experts_bring_their_scales(tmp_path: Path) -> None:
    skeleton = skeleton_of(save_mxfp4(tmp_path / "toy"))
    for name in ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"):
        (piece,) = next(w for w in skeleton.blocks[3] if w.name == name).pieces
        assert piece.scales is not None
        assert piece.scales.key == piece.stored.key.replace("_blocks", "_scales")


def test_a_skeleton_leaves_the_configuration_as_it_was(tmp_path: Path) -> None:
    folder = save_multimodal(tmp_path / "scout", torch.bfloat16)
    config = AutoConfig.from_pretrained(folder)
    before = config.to_dict()
    build_skeleton(config, torch.float32, read_headers(checkpoint_files(str(folder))))
    assert config.to_dict() == before


def test_an_operation_that_cannot_be_read_in_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.core_model_loading import Transpose, WeightConverter

    folder = save_sharded(tmp_path / "toy", "llama", torch.bfloat16)
    turned = WeightConverter("self_attn.k_proj.weight", "self_attn.k_proj.weight", [Transpose()])
    monkeypatch.setattr(
        "trimtab.models.skeleton.get_model_conversion_mapping", lambda model: [turned]
    )
    with pytest.raises(ModelError, match=r"k_proj.weight is put together by Transpose"):
        skeleton_of(folder)
