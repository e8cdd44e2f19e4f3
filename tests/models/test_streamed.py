"""Blocks that stream against blocks that were loaded: the same bits, each byte once."""

import gc
import json
import threading
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import random_prompts, save_multimodal, save_mxfp4, save_sharded
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import TOYS
from transformers import AutoModelForCausalLM, Mxfp4Config, PreTrainedModel

from trimtab.core.errors import ModelError
from trimtab.models.blocks import BlockSource, Start, find_decoder
from trimtab.models.card import ModelConfig
from trimtab.models.engine import Engine, Prompt, Request
from trimtab.models.shards import Reader, checkpoint_files, read_headers
from trimtab.models.slots import Slots
from trimtab.models.states import States
from trimtab.models.streamed import THREAD, StreamedDecoder, open_streamed

CPU = torch.device("cpu")
EVERY_LAYER = Request(layers=(0, 1, 2, 3), poolings=("mean", "last"), token_budget=32)
MAKERS: dict[str, Callable[[Path, torch.dtype], Path]] = {
    **{name: lambda folder, dtype, name=name: save_sharded(folder, name, dtype) for name in TOYS},
    "qwen3_tied": lambda folder, dtype: save_sharded(
        folder, "qwen3", dtype, tie_word_embeddings=True
    ),
    "gpt_oss_mxfp4": lambda folder, dtype: save_mxfp4(folder),
    "llama4_multimodal": save_multimodal,
    "llama4_multimodal_tied": lambda folder, dtype: save_multimodal(folder, dtype, tied=True),
}


PROMPTS = random_prompts([3, 12, 7, 7, 12, 1, 9, 3, 16, 7, 12, 2, 12])


def resident(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model as transformers loads it, each weight in memory of its own."""
    quantised = "quantization_config" in json.loads((folder / "config.json").read_text("utf-8"))
    extra = {"quantization_config": Mxfp4Config(dequantize=True)} if quantised else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **extra)
    for parameter in model.parameters():  # else views of a mapped file, which are not aligned
        parameter.data = parameter.data.clone()
    return model.eval().requires_grad_(requires_grad=False)


def spec(folder: Path, dtype: torch.dtype) -> ModelConfig:
    return ModelConfig(id=str(folder), dtype=str(dtype).removeprefix("torch."), device="cpu")


def pooled(source: BlockSource, request: Request = EVERY_LAYER) -> dict[tuple[str, int], Tensor]:
    return Engine(source, request, CPU).extract(PROMPTS).pooled


def assert_same_bits(
    ours: dict[tuple[str, int], Tensor], theirs: dict[tuple[str, int], Tensor]
) -> None:
    assert ours.keys() == theirs.keys()
    for key, rows in ours.items():
        assert torch.equal(rows, theirs[key]), key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """qwen3_moe, bfloat16, several shards."""
    return save_sharded(tmp_path / "toy", "qwen3_moe", torch.bfloat16)


def reading_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(THREAD)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", MAKERS)
def test_gives_the_resident_model_s_bits(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    folder = MAKERS[kind](tmp_path / kind, dtype)
    source = open_streamed(spec(folder, dtype))
    assert isinstance(source, BlockSource)
    theirs = pooled(find_decoder(resident(folder, dtype)))
    assert all(rows.abs().max() > 0 for rows in theirs.values())
    assert_same_bits(pooled(source), theirs)
    assert_same_bits(pooled(source), theirs)  # the same source again: nothing of a run stays


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss", "llama4"])
@pytest.mark.parametrize(
    ("stored", "computed"),
    [("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "bfloat16")],
)
def test_a_checkpoint_of_another_dtype_is_converted_as_transformers_does(
    tmp_path: Path, kind: str, stored: str, computed: str
) -> None:
    folder = save_sharded(tmp_path / "toy", kind, getattr(torch, stored))
    dtype = getattr(torch, computed)
    theirs = pooled(find_decoder(resident(folder, dtype)))
    assert_same_bits(pooled(open_streamed(spec(folder, dtype))), theirs)


def test_norms_that_stay_in_float32_beside_float16_stay_there(tmp_path: Path) -> None:
    folder = save_sharded(tmp_path / "toy", "gpt_oss", torch.float16)
    model = resident(folder, torch.float16)
    assert model.model.layers[0].input_layernorm.weight.dtype == torch.float32
    assert_same_bits(
        pooled(open_streamed(spec(folder, torch.float16))), pooled(find_decoder(model))
    )


def test_one_file_without_an_index_streams_too(tmp_path: Path, folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    before = pooled(open_streamed(spec(folder, torch.bfloat16)))
    tensors = {key: x for shard in shards for key, x in load_file(shard).items()}
    for path in (*shards, folder / "model.safetensors.index.json"):
        path.unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert_same_bits(pooled(open_streamed(spec(folder, torch.bfloat16))), before)


def test_reads_the_embedding_and_the_blocks_up_to_the_deepest_once_per_block_of_prompts(
    folder: Path,
) -> None:
    stored = read_headers(checkpoint_files(str(folder)))
    wanted = ("model.embed_tokens.", "model.layers.0.", "model.layers.1.", "model.layers.2.")
    expected = sum(x.nbytes for key, x in stored.items() if key.startswith(wanted))
    assert 0 < expected < sum(x.nbytes for x in stored.values())
    source = open_streamed(spec(folder, torch.bfloat16))
    assert source.bytes_read == 0
    for blocks_of_prompts in (1, 2):
        pooled(source, Request(layers=(2,), token_budget=32))
        assert source.bytes_read == blocks_of_prompts * expected
    assert source.seconds_waited > 0


def test_holds_memory_for_two_blocks_and_no_weight_outside_it(folder: Path) -> None:
    source = open_streamed(spec(folder, torch.bfloat16))
    tokens = torch.tensor([[5, 6, 7]])
    source.start(tokens)
    spaces = set()
    with torch.inference_mode():
        for block in source.blocks(3):
            spaces |= {p.untyped_storage().data_ptr() for p in block.parameters()}
    assert len(spaces) == 2
    embedding = source._decoder.module.get_submodule("embed_tokens")
    assert embedding.weight.is_meta, "it is needed only at the start"
    assert source._decoder.module.norm.weight.is_meta, "it is never needed"


def test_blocks_can_begin_further_down(folder: Path) -> None:
    source = open_streamed(spec(folder, torch.bfloat16))
    loaded = find_decoder(resident(folder, torch.bfloat16))
    seen = 0
    for block, theirs in zip(source.blocks(3, 2), loaded.blocks(3, 2), strict=True):
        for (name, x), y in zip(block.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(x, y), name
        seen += 1
    assert seen == 2


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        open_streamed(spec(folder, torch.bfloat16))


def test_a_shortened_shard_is_named_with_a_tensor_before_anything_runs(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    keys = [key for key, file in index["weight_map"].items() if file == shard.name]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ModelError, match=shard.name) as error:
        open_streamed(spec(folder, torch.bfloat16))
    assert any(key in str(error.value) for key in keys)


@pytest.mark.parametrize(
    "content", [b"", b"12345", b"\x05\x00\x00\x00\x00\x00\x00\x00nojso", b"\xff" * 64]
)
def test_a_file_that_is_not_safetensors_is_named(folder: Path, content: bytes) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{shard.name} must be a safetensors file"):
        open_streamed(spec(folder, torch.bfloat16))


def test_a_shard_that_is_damaged_while_it_streams_is_one_error_and_the_thread_ends(
    folder: Path,
) -> None:
    source = open_streamed(spec(folder, torch.bfloat16))
    expected = pooled(source)
    shard = next(s for s in sorted(folder.glob("*.safetensors")) if holds(s, "model.layers.2."))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=rf"model\.layers\.\d.*{shard.name}, but the file ends"):
        pooled(source)
    assert not reading_threads()
    shard.unlink()
    with pytest.raises(ModelError, match=rf"model\.layers\.\d.*{shard.name}: No such file"):
        pooled(source)
    assert not reading_threads()
    shard.write_bytes(content)
    assert_same_bits(pooled(source), expected)


def holds(shard: Path, prefix: str) -> bool:
    with safe_open(shard, "pt") as opened:
        return any(key.startswith(prefix) for key in opened.keys())  # noqa: SIM118 (no mapping)


def test_the_thread_has_ended_after_success_an_early_exit_and_an_error_outside(
    folder: Path,
) -> None:
    source = open_streamed(spec(folder, torch.bfloat16))
    assert not reading_threads()
    blocks = source.blocks(3)
    next(blocks)
    assert reading_threads()
    blocks.close()
    assert not reading_threads()
    list(source.blocks(3))
    assert not reading_threads()
    engine = Engine(source, EVERY_LAYER, CPU)
    with pytest.raises(IndexError):
        engine.extract([Prompt([999], "0")])
    assert not reading_threads()
    source._modules[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        engine.extract(PROMPTS)
    assert caught.value is not None
    assert not reading_threads(), "also while somebody still looks at the error"


def test_a_missing_weight_is_named(folder: Path) -> None:
    shard = next(s for s in folder.glob("*.safetensors") if holds(s, "model.layers.2.self_attn"))
    tensors = load_file(shard)
    gone = next(key for key in tensors if key.startswith("model.layers.2.self_attn"))
    save_file({k: x for k, x in tensors.items() if k != gone}, shard, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"lacks 1 weights of its architecture, {gone}"):
        open_streamed(spec(folder, torch.bfloat16))


def test_a_missing_expert_is_seen(folder: Path) -> None:
    shard = next(
        s for s in folder.glob("*.safetensors") if holds(s, "model.layers.2.mlp.experts.3.")
    )
    tensors = load_file(shard)
    gone = next(key for key in tensors if key.startswith("model.layers.2.mlp.experts.3."))
    save_file({k: x for k, x in tensors.items() if k != gone}, shard, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"of the \d+ values of model\.layers\.2\.mlp\.experts"):
        open_streamed(spec(folder, torch.bfloat16))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["hidden_size"] = 48
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match="must have shape"):
        open_streamed(spec(folder, torch.bfloat16))


@pytest.mark.parametrize("method", ["bitsandbytes", "trimtab_nf4", "gptq"])
def test_a_4_bit_checkpoint_is_refused_in_words(folder: Path, method: str) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": method, "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match=rf"{method}.*source: resident"):
        open_streamed(spec(folder, torch.bfloat16))


def test_4_bits_on_the_way_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="nf4"):
        open_streamed(ModelConfig(id=str(folder), precision="nf4"))


def test_a_folder_without_safetensors_is_refused(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        open_streamed(spec(folder, torch.bfloat16))


def test_a_read_begins_where_it_is_told_to_and_is_counted(tmp_path: Path) -> None:
    save_file({"x": torch.arange(10, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    stored = read_headers(checkpoint_files(str(tmp_path)))["x"]
    memory = bytearray(4)
    reader = Reader()
    with closing(reader):
        reader.read(stored, memoryview(memory), offset=3)
    assert bytes(memory) == bytes([3, 4, 5, 6])
    assert reader.bytes_read == 4


def test_running_out_of_memory_halves_the_budget_of_a_stream(folder: Path) -> None:
    class Tight(StreamedDecoder):
        def start(self, tokens: Tensor) -> Start:
            if tokens.numel() > 16:
                raise torch.OutOfMemoryError("no room")
            return super().start(tokens)

    source = open_streamed(spec(folder, torch.bfloat16))
    narrow = pooled(source, EVERY_LAYER.model_copy(update={"token_budget": 16}))
    source.__class__ = Tight
    engine = Engine(source, EVERY_LAYER, CPU)
    assert_same_bits(engine.extract(PROMPTS).pooled, narrow)
    assert engine.token_budget == 16


def test_memory_that_the_reading_thread_lacks_is_free_before_the_next_try(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error and the frames that it passed through, states and all, hold one another."""
    alive: list[weakref.ref[States]] = []
    source = open_streamed(spec(folder, torch.bfloat16))
    engine, fill = Engine(source, EVERY_LAYER, CPU), Slots.fill
    states = engine._states

    def noted(*args: Any) -> States:  # noqa: ANN401
        assert not any(one() for one in alive), "the states of the first try are still there"
        made = states(*args)
        alive.append(weakref.ref(made))
        return made

    def tight(self: Slots, layer: int, *args: Any) -> None:  # noqa: ANN401
        if layer == 2 and len(alive) == 1:
            raise torch.OutOfMemoryError("no room")
        fill(self, layer, *args)

    monkeypatch.setattr(engine, "_states", noted)
    monkeypatch.setattr(Slots, "fill", tight)
    gc.disable()
    try:
        engine.extract(PROMPTS)
    finally:
        gc.enable()
    assert len(alive) == 2
