"""The registry's shapes build configurations without a network."""

import json

import pytest
from transformers import (
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from trimtab.core.errors import ModelError
from trimtab.models.card import ModelConfig
from trimtab.models.configs import config_of
from trimtab.models.registry import REGISTRY
from trimtab.models.shapes import config, known_config

KINDS = {
    "qwen3": Qwen3Config,
    "qwen3_moe": Qwen3MoeConfig,
    "llama": LlamaConfig,
    "llama4": Llama4TextConfig,
    "gpt_oss": GptOssConfig,
}


def test_the_23_are_in_ten_families_of_one_shape_each() -> None:
    shapes = {known.family: known.shape for known in REGISTRY.values()}
    assert len(shapes) == len(set(shapes.values())) == 10
    assert all(shapes[known.family] == known.shape for known in REGISTRY.values())


def test_llama_is_gated_and_gpt_oss_in_mxfp4() -> None:
    for known in REGISTRY.values():
        assert known.gated == known.id.startswith("meta-llama/")
        assert (known.precision == "mxfp4") == known.id.startswith("openai/")
        assert known.revision == "main"


@pytest.mark.parametrize("known", REGISTRY.values(), ids=lambda known: known.id)
def test_a_shape_is_enough_for_a_configuration(known) -> None:  # noqa: ANN001
    made, shape = config(known.shape), known.shape
    assert type(made) is KINDS[known.architecture]
    assert (made.num_hidden_layers, made.hidden_size) == (known.num_layers, known.d_model)
    assert (made.num_attention_heads, made.head_dim) == (shape.num_heads, shape.head_dim)
    assert made.vocab_size == shape.vocabulary
    assert getattr(made, "num_experts_per_tok", 0) == shape.top_k


def test_what_a_forward_would_notice_is_as_published() -> None:
    qwen, moe = (config(REGISTRY[f"Qwen/{name}"].shape) for name in ("Qwen3-8B", "Qwen3-235B-A22B"))
    assert qwen.rope_parameters["rope_theta"] == moe.rope_parameters["rope_theta"] == 1e6
    assert moe.norm_topk_prob
    assert config(REGISTRY["meta-llama/Llama-3.1-8B"].shape).rope_parameters["factor"] == 8
    oss = config(REGISTRY["openai/gpt-oss-20b"].shape)
    assert oss.layer_types[:2] == ["sliding_attention", "full_attention"]
    assert oss.sliding_window == 128
    scout = config(REGISTRY["meta-llama/Llama-4-Scout-17B-16E"].shape)
    assert scout.no_rope_layers[:4] == [1, 1, 1, 0]
    assert scout.moe_layers == list(range(48))
    assert scout.attention_chunk_size == 8192


def test_every_field_is_plain_json() -> None:
    for known in REGISTRY.values():
        found = json.loads(json.dumps(known.to_json()))
        assert found["shape"]["architecture"] == found["architecture"] == known.architecture
        assert (found["num_layers"], found["d_model"]) == (known.num_layers, known.d_model)


def test_one_of_the_23_needs_no_network_and_another_id_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    known = REGISTRY["openai/gpt-oss-20b"]
    assert config_of(ModelConfig(id=known.id)).to_dict() == known_config(known).to_dict()
    with pytest.raises(ModelError, match=r"no-such-model cannot be loaded.*network"):
        config_of(ModelConfig(id="trimtab-tests/no-such-model"))
    with pytest.raises(ModelError, match="no model folder"):
        config_of(ModelConfig(id="./nowhere"))


def test_a_folder_is_what_its_own_configuration_says(tmp_path) -> None:  # noqa: ANN001
    config(REGISTRY["Qwen/Qwen3-0.6B"].shape).save_pretrained(tmp_path)
    assert config_of(ModelConfig(id=str(tmp_path))).num_hidden_layers == 28
