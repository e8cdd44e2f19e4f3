"""The engine against the model's own forward."""

from collections.abc import Generator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.core.errors import ActivationError, ConfigError, ModelError
from trimtab.models.batching import plan_batches
from trimtab.models.blocks import Decoder, Start, find_decoder
from trimtab.models.engine import Engine, Prompt, Request

CPU = torch.device("cpu")


def prompts_of(lengths: Sequence[int]) -> list[Prompt]:
    generator = np.random.default_rng(0)
    return [
        Prompt(generator.integers(3, 64, size=n).tolist(), f"{i}/care-harm")
        for i, n in enumerate(lengths)
    ]


PROMPTS = prompts_of([3, 12, 7, 7, 12, 1, 9, 3, 16, 7, 12, 2, 12])
EVERY_LAYER = Request(layers=(0, 1, 2, 3), poolings=("mean", "last"), token_budget=32)


def hooked(model: PreTrainedModel, **inputs: Tensor) -> list[Tensor]:
    """The outputs of the model's blocks in its ordinary forward."""
    seen: list[Tensor] = []
    blocks = next(
        m for m in model.modules() if isinstance(getattr(m, "layers", None), nn.ModuleList)
    )
    hooks = [b.register_forward_hook(lambda m, i, o: seen.append(o.clone())) for b in blocks.layers]
    with torch.inference_mode():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_ordinary_forward_bit_for_bit_on_the_same_batches(
    toy: PreTrainedModel, dtype: torch.dtype
) -> None:
    toy = toy.to(dtype)
    pooled = Engine(find_decoder(toy), EVERY_LAYER, CPU).extract(PROMPTS).pooled
    for batch in plan_batches([len(p.tokens) for p in PROMPTS], EVERY_LAYER.token_budget):
        tokens = torch.tensor([PROMPTS[i].tokens for i in batch.which])
        for layer, hidden in enumerate(hooked(toy, input_ids=tokens)):
            mean = hidden.mean(1, dtype=torch.float32)
            assert torch.equal(pooled["mean", layer][batch.which], mean)
            assert torch.equal(pooled["last", layer][batch.which], hidden[:, -1].float())


def test_equals_a_padded_reference(toy: PreTrainedModel) -> None:
    pooled = Engine(find_decoder(toy), EVERY_LAYER, CPU).extract(PROMPTS).pooled
    longest = max(len(p.tokens) for p in PROMPTS)
    tokens = torch.tensor([p.tokens + [0] * (longest - len(p.tokens)) for p in PROMPTS])
    mask = torch.tensor([[1] * len(p.tokens) + [0] * (longest - len(p.tokens)) for p in PROMPTS])
    for layer, hidden in enumerate(hooked(toy, input_ids=tokens, attention_mask=mask)):
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        last = hidden[torch.arange(len(PROMPTS)), mask.sum(1) - 1]
        torch.testing.assert_close(pooled["mean", layer], mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pooled["last", layer], last, rtol=1e-5, atol=1e-5)


def test_a_token_budget_moves_results_by_rounding_only(toy: PreTrainedModel) -> None:
    source = find_decoder(toy)
    wide = Engine(source, EVERY_LAYER.model_copy(update={"token_budget": 4096}), CPU)
    for key, rows in Engine(source, EVERY_LAYER, CPU).extract(PROMPTS).pooled.items():
        torch.testing.assert_close(rows, wide.extract(PROMPTS).pooled[key], rtol=1e-5, atol=1e-5)


def test_the_same_call_twice_gives_the_same_bits(llama_toy: PreTrainedModel) -> None:
    engine = Engine(find_decoder(llama_toy), EVERY_LAYER, CPU)
    first, second = engine.extract(PROMPTS), engine.extract(PROMPTS)
    assert all(torch.equal(first.pooled[key], second.pooled[key]) for key in first.pooled)


def test_leaving_the_first_token_out_of_the_mean(llama_toy: PreTrainedModel) -> None:
    prompts = prompts_of([5, 5, 8])
    request = Request(layers=(1,), skip_first=True, token_budget=16)
    rows = Engine(find_decoder(llama_toy), request, CPU).extract(prompts).pooled["mean", 1]
    hidden = hooked(llama_toy, input_ids=torch.tensor([p.tokens for p in prompts[:2]]))[1]
    assert torch.equal(rows[:2], hidden[:, 1:].mean(1))


class Counting:
    """A block source that counts the blocks it hands out and can run out of memory."""

    def __init__(self, decoder: Decoder, most_tokens: int = 10**9) -> None:
        self.decoder, self.most_tokens, self.handed_out = decoder, most_tokens, 0
        self.num_layers, self.d_model = decoder.num_layers, decoder.d_model

    def start(self, tokens: Tensor) -> Start:
        if tokens.numel() > self.most_tokens:
            raise torch.OutOfMemoryError("no room")
        return self.decoder.start(tokens)

    def blocks(self, deepest: int, first: int = 0) -> Generator[nn.Module, None, None]:
        for block in self.decoder.blocks(deepest, first):
            self.handed_out += 1
            yield block


def test_stops_at_the_deepest_layer_asked_for(llama_toy: PreTrainedModel) -> None:
    source = Counting(find_decoder(llama_toy))
    extraction = Engine(source, Request(layers=(0, 2)), CPU).extract(PROMPTS)
    assert source.handed_out == 3
    assert set(extraction.pooled) == {("mean", 0), ("mean", 2)}


def test_out_of_memory_halves_the_budget_says_so_and_goes_on(
    llama_toy: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = find_decoder(llama_toy)
    engine = Engine(Counting(decoder, most_tokens=20), EVERY_LAYER, CPU)
    extraction = engine.extract(PROMPTS)
    assert extraction.token_budget == engine.token_budget == 16
    assert "halved to 16" in caplog.text
    narrow = Engine(decoder, EVERY_LAYER.model_copy(update={"token_budget": 16}), CPU)
    for key, rows in narrow.extract(PROMPTS).pooled.items():
        assert torch.equal(rows, extraction.pooled[key])


def test_a_prompt_that_never_fits_is_an_error(llama_toy: PreTrainedModel) -> None:
    engine = Engine(Counting(find_decoder(llama_toy), most_tokens=8), EVERY_LAYER, CPU)
    with pytest.raises(ModelError, match=r"longest prompt \(16 tokens\)"):
        engine.extract(PROMPTS)


def test_other_runtime_errors_are_not_taken_for_memory(llama_toy: PreTrainedModel) -> None:
    class Broken(Counting):
        def start(self, tokens: Tensor) -> Start:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Engine(Broken(find_decoder(llama_toy)), EVERY_LAYER, CPU).extract(PROMPTS)


def test_a_nan_is_named_by_layer_and_scenario(llama_toy: PreTrainedModel) -> None:
    llama_toy.get_submodule("model.layers.2.mlp.down_proj").weight[0, 0] = float("nan")
    engine = Engine(find_decoder(llama_toy), EVERY_LAYER, CPU)
    with pytest.raises(ActivationError, match=r"Layer 2 .* scenario 0/care-harm"):
        engine.extract(PROMPTS)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(layers=(0, 4)), "the last one is 3"),
        (Request(layers=(-1,)), "Layers count from 0"),
        (Request(layers=()), "At least one layer"),
        (Request(layers=(1, 0, 1)), r"once, but got \(1, 0, 1\)"),
        (Request(layers=(0,), poolings=("max",)), "'max'"),
    ],
)
def test_a_request_the_model_cannot_serve_is_refused(
    llama_toy: PreTrainedModel, request_: Request, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(find_decoder(llama_toy), request_, CPU)
