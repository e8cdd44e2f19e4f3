"""The twins: of the classes that they stand for, in their layouts, and they run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from trimtab.core.errors import DataError, ModelError, OutputError
from trimtab.models.card import ModelConfig
from trimtab.models.engine import Engine, Prompt, Request
from trimtab.models.loading import LoadedModel, describe, load
from trimtab.models.mxfp4 import unpack
from trimtab.models.registry import REGISTRY
from trimtab.models.tokens import adds_bos
from trimtab.models.twin_shapes import LENGTH, SHAPES, VOCABULARY, WINDOW
from trimtab.models.twin_text import dressed, train_ordinary
from trimtab.models.twins import STAMP, Twin, folder_name, make_twins, read_twin

TEXTS = [
    "carrying a stranger's shopping up the stairs",
    "kicking a sleeping dog",
    "selling a friend's secret for money",
    "sharing the last slice of cake evenly",
    "telling the truth although it hurts",
    "taking the later bus to work",
] * 3
KINDS = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "llama": "LlamaForCausalLM",
    "llama4": "Llama4ForConditionalGeneration",
    "gpt_oss": "GptOssForCausalLM",
}
TIED, PLAIN = "Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B"
MOE, LLAMA = "Qwen/Qwen3-235B-A22B", "meta-llama/Llama-3.1-8B"
SCOUT, GPT_OSS = "meta-llama/Llama-4-Scout-17B-16E", "openai/gpt-oss-20b"
ONE_OF_EACH = (TIED, PLAIN, MOE, LLAMA, SCOUT, GPT_OSS)
HEADS_PER_KV = {
    "Qwen3-0.6B": 2,
    "Qwen3-4B": 4,
    "Qwen3-8B": 4,
    "Qwen3-14B": 5,
    "Qwen3-32B": 8,
    "Qwen3-235B-A22B": 16,
    "Llama-3.1-8B": 4,
    "Llama-4-Scout": 5,
    "gpt-oss-20b": 8,
    "gpt-oss-120b": 8,
}
"""METHODS 4."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("twins")


@pytest.fixture(scope="module")
def made(out: Path) -> dict[str, Twin]:
    return {twin.of: twin for twin in make_twins(out, TEXTS)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def weights(twin: Twin) -> dict[str, torch.Tensor]:
    return load_file(twin.folder / "model.safetensors")


def loaded(twin: Twin) -> LoadedModel:
    return load(ModelConfig(id=str(twin.folder)))


def test_there_is_one_for_each_of_the_23_in_a_folder_of_its_name(
    out: Path, made: dict[str, Twin]
) -> None:
    assert list(made) == list(REGISTRY)
    assert {path.name for path in out.iterdir()} == {folder_name(model) for model in REGISTRY}
    assert len({folder_name(model) for model in REGISTRY}) == 23


@pytest.mark.parametrize("model", REGISTRY)
def test_each_is_of_its_originals_class_and_small(made: dict[str, Twin], model: str) -> None:
    twin, known = made[model], REGISTRY[model]
    config = AutoConfig.from_pretrained(twin.folder)
    assert config.model_type == known.architecture
    assert config.architectures == [twin.kind] == [KINDS[known.architecture]]
    text = config.get_text_config()
    assert text.num_hidden_layers == twin.num_layers < known.num_layers
    assert text.num_attention_heads / text.num_key_value_heads == HEADS_PER_KV[known.family]
    assert text.tie_word_embeddings == (known.family in ("Qwen3-0.6B", "Qwen3-4B"))
    assert (twin.family, twin.group, twin.precision) == (known.family, known.group, known.precision)
    assert twin.num_bytes < 16e6
    assert (twin.folder / "chat_template.jinja").is_file()


@pytest.mark.parametrize("family", SHAPES)
def test_widths_suit_both_kinds_of_4_bit_blocks(family: str) -> None:
    shape = SHAPES[family]
    assert shape.d_model % 64 == shape.d_mlp % 64 == 0
    assert shape.num_experts == 0 or shape.num_experts >= 4 * shape.top_k


@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_it_runs_and_every_layer_and_every_prompt_is_different(
    made: dict[str, Twin], model: str
) -> None:
    found = loaded(made[model])
    prompts = [Prompt(found.tokenizer(text)["input_ids"], text) for text in TEXTS[:6]]
    layers = tuple(range(found.decoder.num_layers))
    engine = Engine(found.decoder, Request(layers=layers), torch.device("cpu"))
    pooled = engine.extract(prompts).pooled
    states = torch.stack([pooled["mean", layer] for layer in layers])
    assert states.isfinite().all()
    assert states.abs().max() < 1e3
    moved = (states[1:] - states[:-1]).norm(dim=-1) / states[:-1].norm(dim=-1)
    assert moved.min() > 0.05
    apart = torch.cdist(states, states) + torch.eye(len(prompts)) * 1e3
    assert apart.min() > 0.1


@pytest.mark.parametrize(
    ("model", "sees_it"), [(PLAIN, 0), (GPT_OSS, 1), (SCOUT, 3)], ids=["full", "window", "chunk"]
)
def test_windows_and_chunks_are_shorter_than_a_prompt(
    made: dict[str, Twin], model: str, sees_it: int
) -> None:
    decoder = loaded(made[model]).decoder
    request = Request(layers=tuple(range(4)), poolings=("last",))
    tokens = list(range(40, 40 + 2 * WINDOW + 4))
    one, other = (
        Engine(decoder, request, torch.device("cpu")).extract([Prompt([first, *tokens], "0")])
        for first in (7, 8)
    )
    same = [torch.equal(one.pooled["last", i], other.pooled["last", i]) for i in range(4)]
    assert same == [layer < sees_it for layer in range(4)]


def test_the_card_is_what_the_stamp_says(made: dict[str, Twin]) -> None:
    twin = made[PLAIN]
    card, _ = describe(ModelConfig(id=str(twin.folder)))
    assert (card.num_layers, card.parameters) == (twin.num_layers, twin.parameters)
    assert (card.architecture, card.dtype) == ("qwen3", "bfloat16")


def test_a_family_shares_shape_and_tokenizer_but_no_weight(made: dict[str, Twin]) -> None:
    base, instruct, guard = (
        made[f"Qwen/Qwen3{name}"] for name in ("-8B-Base", "-8B", "Guard-Gen-8B")
    )
    for other in (instruct, guard):
        mine, theirs = files(base.folder), files(other.folder)
        different = {name for name in mine if mine[name] != theirs[name]}
        assert different == {"model.safetensors", STAMP}
        pairs = zip(weights(base).values(), weights(other).values(), strict=True)
        assert not any(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_the_whole_checkpoint_is_what_its_class_reads(made: dict[str, Twin], model: str) -> None:
    kind = getattr(transformers, made[model].kind)
    whole, info = kind.from_pretrained(made[model].folder, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys"))
    assert not info["mismatched_keys"]
    assert whole.num_parameters() == made[model].parameters


def test_qwen3_moe_is_saved_one_tensor_per_expert(made: dict[str, Twin]) -> None:
    names = weights(made[MOE])
    shape = SHAPES["Qwen3-235B-A22B"]
    for projection in ("gate_proj", "up_proj", "down_proj"):
        last = f"model.layers.{shape.num_layers - 1}.mlp.experts.{shape.num_experts - 1}"
        assert f"{last}.{projection}.weight" in names
    assert not any("gate_up" in name for name in names)
    assert {tensor.dtype for tensor in names.values()} == {torch.bfloat16}


def test_llama4_is_multimodal_on_disk_and_its_text_part_loads(made: dict[str, Twin]) -> None:
    twin = made[SCOUT]
    saved = weights(twin)
    starts = {name.split(".")[0] for name in saved}
    assert starts == {"language_model", "vision_model", "multi_modal_projector"}
    experts = "language_model.model.layers.{}.feed_forward.experts.gate_up_proj"
    assert all(experts.format(layer) in saved for layer in range(twin.num_layers))
    model = loaded(twin).model
    text = {f"language_model.{name}": tensor for name, tensor in model.state_dict().items()}
    assert set(text) == {name for name in saved if name.startswith("language_model.")}
    assert all(torch.equal(text[name], saved[name]) for name in text)


def test_llama4_has_layers_without_positions_and_scaled_ones(made: dict[str, Twin]) -> None:
    text = AutoConfig.from_pretrained(made[SCOUT].folder).text_config
    assert text.no_rope_layers == [1, 1, 1, 0, 1, 1]
    assert text.moe_layers == list(range(6))
    assert text.rope_parameters["rope_type"] == "llama3"
    assert text.attention_chunk_size == WINDOW


def test_the_llamas_scaled_positions_are_read_as_published(made: dict[str, Twin]) -> None:
    rope = AutoConfig.from_pretrained(made[LLAMA].folder).rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("llama3", 8.0, 500_000.0)
    assert rope["original_max_position_embeddings"] < LENGTH


def test_gpt_oss_is_an_mxfp4_checkpoint_with_the_published_keys(made: dict[str, Twin]) -> None:
    twin = made[GPT_OSS]
    saved = weights(twin)
    first = "model.layers.0."
    layer = {name.removeprefix(first) for name in saved if name.startswith(first)}
    experts = {
        f"mlp.experts.{projection}_{part}"
        for projection in ("gate_up_proj", "down_proj")
        for part in ("blocks", "scales", "bias")
    }
    attention = {f"self_attn.{p}_proj.{kind}" for p in "qkvo" for kind in ("weight", "bias")}
    norms = {"input_layernorm.weight", "post_attention_layernorm.weight"}
    router = {"mlp.router.weight", "mlp.router.bias"}
    assert layer == experts | attention | norms | router | {"self_attn.sinks"}
    shape = SHAPES["gpt-oss-20b"]
    blocks = saved[first + "mlp.experts.gate_up_proj_blocks"]
    assert blocks.shape == (shape.num_experts, 2 * shape.d_mlp, shape.d_model // 32, 16)
    for name, tensor in saved.items():
        packed = name.endswith(("_blocks", "_scales"))
        assert tensor.dtype == (torch.uint8 if packed else torch.bfloat16)
        if name.endswith(("sinks", "bias")):
            assert tensor.abs().min() > 0 or tensor.count_nonzero() > 0.99 * tensor.numel()
    config = json.loads((twin.folder / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "mxfp4"


def test_gpt_oss_loads_to_the_values_of_its_blocks(made: dict[str, Twin]) -> None:
    twin = made[GPT_OSS]
    saved, model = weights(twin), loaded(twin).model
    for projection in ("gate_up_proj", "down_proj"):
        name = f"model.layers.1.mlp.experts.{projection}"
        expected = unpack(saved[f"{name}_blocks"], saved[f"{name}_scales"], torch.float32)
        got = getattr(model.model.layers[1].mlp.experts, projection)
        assert torch.equal(got.float(), expected)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(
    made: dict[str, Twin], tmp_path: Path
) -> None:
    for twin in make_twins(tmp_path / "again", TEXTS, [MOE, GPT_OSS, SCOUT]):
        assert files(twin.folder) == files(made[twin.of].folder)
    (other,) = make_twins(tmp_path / "other", TEXTS, [TIED], seed=1)
    assert files(other.folder)["model.safetensors"] != files(made[TIED].folder)["model.safetensors"]


def test_a_finished_twin_is_reused_and_a_damaged_or_outdated_one_is_made_again(
    tmp_path: Path,
) -> None:
    told: list[tuple[str, int, int]] = []

    def make(texts: list[str] = TEXTS) -> Twin:
        return make_twins(tmp_path, texts, [TIED], progress=lambda *step: told.append(step))[0]

    first = make()
    whole = files(first.folder)
    assert make() == first._replace(reused=True)
    path = first.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert make() == first
    assert files(first.folder) == whole
    (first.folder / "tokenizer.json").unlink()
    assert make() == first
    outdated = make([*TEXTS, "something else"])
    assert not outdated.reused
    assert files(first.folder)["tokenizer.json"] != whole["tokenizer.json"]
    assert told == [("Qwen3-0.6B", 1, 1)] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["Qwen3-0.6B"]


def test_a_real_model_in_the_way_is_left_alone(made: dict[str, Twin], tmp_path: Path) -> None:
    real = tmp_path / "Qwen3-0.6B"
    shutil.copytree(made[TIED].folder, real)
    (real / STAMP).unlink()
    before = files(real)
    with pytest.raises(OutputError, match=r"is no twin.*Choose another folder"):
        make_twins(tmp_path, TEXTS, [TIED])
    assert files(real) == before
    assert read_twin(real) is None


def test_an_unknown_model_and_no_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'Qwen3-8B'.*nearest is Qwen/Qwen3-8B\."):
        make_twins(tmp_path, TEXTS, ["Qwen3-8B"])
    with pytest.raises(DataError, match="got none"):
        make_twins(tmp_path, [" "])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", [PLAIN, LLAMA, SCOUT, GPT_OSS])
def test_a_tokenizer_gives_back_any_text_and_adds_a_bos_where_its_original_does(
    made: dict[str, Twin], model: str
) -> None:
    folder, architecture = made[model].folder, REGISTRY[model].architecture
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert adds_bos(tokenizer) == (architecture in ("llama", "llama4"))
    for text in (*TEXTS[:2], "naïve café, 12 €: “так”\n\tyes", " leading and trailing "):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert ids == dressed(train_ordinary(TEXTS), architecture)(text)["input_ids"]
    assert len(tokenizer) < VOCABULARY
    ordinary = train_ordinary(TEXTS).get_vocab_size()
    assert tokenizer.eos_token_id >= ordinary
    assert tokenizer.pad_token_id >= ordinary


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (PLAIN, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (
            LLAMA,
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            SCOUT,
            "<|begin_of_text|><|header_start|>user<|header_end|>\n\nHi<|eot|>"
            "<|header_start|>assistant<|header_end|>\n\n",
        ),
        (GPT_OSS, "<|start|>user<|message|>Hi<|end|><|start|>assistant"),
    ],
)
def test_a_chat_looks_like_its_originals(made: dict[str, Twin], model: str, expected: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made[model].folder)
    chat = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == expected
    specials = [token for token in tokenizer.tokenize(text) if token.startswith("<|")]
    assert len(specials) == expected.count("<|")
