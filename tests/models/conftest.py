"""Toy models as fixtures."""

from pathlib import Path

import pytest
import torch
from checkpoints import save_multimodal
from toys import TOYS, make_tokenizer, make_toy, save_toy
from transformers import PreTrainedModel, PreTrainedTokenizerFast


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
def multimodal_folder(tmp_path: Path) -> Path:
    """Llama 4 as the multimodal checkpoint it is published as; its text part is the llama4 toy."""
    return save_multimodal(tmp_path / "toy-scout", torch.float32)
