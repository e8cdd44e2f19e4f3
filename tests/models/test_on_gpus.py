"""Extraction on two GPUs that are not there: the CPU's rows, wherever states stay between blocks."""

import pytest
import torch
from pretend_gpus import pretend_gpus, put
from toys import TOYS, make_toy
from transformers import PreTrainedModel

from trimtab.models.blocks import find_decoder
from trimtab.models.engine import Engine, Prompt, Request
from trimtab.models.states import Keep

PROMPTS = [Prompt(list(range(3, 3 + n)), f"{n}/care-harm") for n in (3, 7, 7, 12, 1, 9, 7)]
REQUEST = Request(layers=(0, 3), poolings=("mean", "last"), token_budget=32)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def eager_toy(name: str) -> PreTrainedModel:
    """Experts one by one: their grouped kernel asks what device it is on, and knows no pretence."""
    model = make_toy(name)
    model.config._experts_implementation = "eager"
    return model


@pytest.mark.parametrize(
    ("name", "keep"), [*((name, "device") for name in TOYS), ("llama", "host")]
)
def test_rows_from_two_gpus_are_those_of_the_cpu(name: str, keep: Keep) -> None:
    expected = Engine(find_decoder(eager_toy(name)), REQUEST, CPU).extract(PROMPTS).pooled
    with torch.inference_mode(), pretend_gpus():
        model = eager_toy(name)
        put(model, 2)
        found = Engine(find_decoder(model), REQUEST, GPU, keep).extract(PROMPTS).pooled
    assert found.keys() == expected.keys()
    for key, rows in found.items():
        torch.testing.assert_close(rows.cpu(), expected[key], rtol=1e-5, atol=1e-6)
