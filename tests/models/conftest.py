"""Toy models as fixtures."""

from pathlib import Path

import pytest
import torch
from toys import TOYS, make_tokenizer, make_toy, save_toy
from transformers import Llama4Config, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.llama4.modeling_llama4 import Llama4ForConditionalGeneration


@pytest.fixture(params=TOYS)
def toy(request: pytest.FixtureRequest) -> PreTrainedModel:
    """One toy of each architecture, float32, the same weights every time."""
    return make_toy(request.param)


@pytest.fixture
def llama_toy() -> PreTrainedModel:
    """The plainest toy, for tests that are not about architectures."""
    return make_toy("llama")


@pytest.fixture
def llama4_toy() -> PreTrainedModel:
    """The text part of `multimodal_folder`."""
    return make_toy("llama4")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the toys' vocabulary."""
    return make_tokenizer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A llama toy in Hugging Face layout."""
    return save_toy(tmp_path / "toy-llama")


@pytest.fixture
def multimodal_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Llama 4 as the multimodal checkpoint it is published as; its text part is the llama4 toy."""
    config = Llama4Config(
        text_config=TOYS["llama4"][1]().to_dict(),
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "vision_output_dim": 16,
            "projector_input_dim": 16,
            "projector_output_dim": 16,
            "image_size": 28,
        },
        image_token_index=60,
        boi_token_index=61,
        eoi_token_index=62,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Llama4ForConditionalGeneration(config)
    model.language_model.load_state_dict(make_toy("llama4").state_dict())
    model.save_pretrained(tmp_path / "toy-scout")
    tokenizer.save_pretrained(tmp_path / "toy-scout")
    return tmp_path / "toy-scout"
