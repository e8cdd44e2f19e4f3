"""Models by folder, and what is said of a folder that is not one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from trimtab.core.errors import DataError, ModelError
from trimtab.models.blocks import find_decoder
from trimtab.models.card import ModelConfig
from trimtab.models.checkpoint import fingerprint
from trimtab.models.engine import Engine, Prompt, Request
from trimtab.models.loading import describe, device_of, load, load_weights
from trimtab.models.registry import REGISTRY
from trimtab.models.tokens import adds_bos, tokenise


def spec(folder: Path, **fields: object) -> ModelConfig:
    return ModelConfig.model_validate({"id": str(folder), **fields})


def test_a_card_says_what_the_loaded_model_is(folder: Path) -> None:
    card, _ = describe(spec(folder))
    loaded = load(spec(folder))
    assert card.parameters == loaded.model.num_parameters()
    assert (card.num_layers, card.d_model) == (4, 32)
    assert (loaded.decoder.num_layers, loaded.decoder.d_model) == (4, 32)
    assert (card.label, card.architecture, card.group) == ("toy-llama", "llama", "other")
    assert card.context == 64
    assert card._replace(context=None).identity == card.identity


@pytest.mark.parametrize(
    ("fields", "device"),
    [
        ({}, "cuda"),
        ({"num_gpus": 0.5}, "cuda"),
        ({"num_gpus": 0.0}, "cpu"),
        ({"device": "cpu"}, "cpu"),
    ],
)
def test_whoever_asks_for_no_gpu_gets_none_where_there_is_one(
    fields: dict[str, object], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(spec(Path("toy"), **fields)) == device


@pytest.mark.parametrize(("asked", "got"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_dtype_is_decided_once(folder: Path, asked: str, got: torch.dtype) -> None:
    loaded = load(spec(folder, dtype=asked))
    assert {p.dtype for p in loaded.model.parameters()} == {got}
    assert describe(spec(folder, dtype=asked))[0].dtype == str(got).removeprefix("torch.")


def test_a_multimodal_checkpoint_gives_its_text_part(
    multimodal_folder: Path, llama4_toy: PreTrainedModel
) -> None:
    card, _ = describe(spec(multimodal_folder))
    loaded = load(spec(multimodal_folder))
    assert (card.architecture, card.num_layers) == ("llama4", 4)
    assert not any("vision" in name for name, _ in loaded.model.named_modules())
    prompts = [Prompt([5, 6, 7, 8, 9, 10, 11, 12, 13], "0"), Prompt([4, 4], "1")]
    ours, theirs = (
        Engine(decoder, Request(layers=(3,)), torch.device("cpu")).extract(prompts).pooled
        for decoder in (loaded.decoder, find_decoder(llama4_toy))
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("place", ["cpu", "disk", 1])
def test_a_model_is_on_its_gpus_whole_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str | int
) -> None:
    model = load(spec(folder)).model
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": place}
    told = model, {"missing_keys": set()}
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: told)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if place == 1:
        assert load_weights(spec(folder, device="cuda")) is model
        return
    with pytest.raises(
        ModelError, match=r"into the 2 GPUs .* 1 of its parts did not, model.layers.1"
    ):
        load_weights(spec(folder, device="cuda"))


def test_a_fingerprint_sees_one_changed_weight(folder: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != before


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def unknown_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "perceptron9000"}))


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def a_missing_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "must hold a config.json"),
        (broken_config, "cannot be loaded"),
        (unknown_type, "perceptron9000"),
        (no_tokenizer, "must hold its tokenizer"),
        (cut_weights, "cannot be loaded"),
        (no_weights, "cannot be loaded"),
        (a_missing_weight, r"lacks 1 weights.*layers\.1\.mlp\.up_proj"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(spec(folder))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("said", ["/nowhere", "./nowhere", "no/such/model", "nowhere/"])
def test_a_folder_that_is_not_there_is_named(said: str) -> None:
    with pytest.raises(ModelError, match=f"no model folder {said}"):
        describe(ModelConfig(id=said))


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"trimtab-tests/no-such-model cannot be loaded.*network"):
        describe(ModelConfig(id="trimtab-tests/no-such-model"))


def test_the_real_small_llama_loads_and_adds_a_bos_or_not_as_it_says(shared: Path) -> None:
    card, tokenizer = describe(spec(shared / "models/stories260K"))
    assert (card.num_layers, card.d_model, card.parameters) == (5, 64, 260_032)
    first = tokenizer("a")["input_ids"][0]
    assert adds_bos(tokenizer) == (first == tokenizer.bos_token_id)


def test_a_prompt_over_the_limit_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["giving is morally", "stealing the a the a is morally"]
    assert [len(p.tokens) for p in tokenise(tokenizer, texts, ["0", "1"], max_tokens=7)] == [3, 7]
    with pytest.raises(DataError, match=r"1 to 6 tokens, but scenario 7/care-harm has 7"):
        tokenise(tokenizer, texts, ["0", "7/care-harm"], max_tokens=6)


def test_the_registry_holds_the_23_in_their_groups() -> None:
    groups = [model.group for model in REGISTRY.values()]
    assert [groups.count(g) for g in ("base", "instruct", "guard")] == [7, 10, 6]
    assert len({model.architecture for model in REGISTRY.values()}) == 5
