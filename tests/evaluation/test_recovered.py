"""Cross-entropy recovered, against a model with hooks that computes every logit."""

import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softmax
from toys import make_tokenizer, make_toy

from trimtab.core.errors import CoderError, ConfigError, ModelError
from trimtab.core.names import SAE_QUALITY
from trimtab.evaluation import recovered as room
from trimtab.evaluation.recovered import InModel, recovered
from trimtab.models.blocks import find_decoder
from trimtab.models.engine import Prompt
from trimtab.models.held import held_bytes
from trimtab.models.loading import LoadedModel
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.evaluate import quality
from trimtab.sae.rows import from_tensors

D, VOCABULARY = 32, 64


def loaded(name: str = "qwen3") -> LoadedModel:
    model = make_toy(name)
    with torch.no_grad():  # a random toy's logits are nearly flat; this makes zeros worse than it
        model.get_submodule("model").embed_tokens.weight.mul_(3)
        model.lm_head.weight.mul_(8)
    return LoadedModel(model, make_tokenizer(), find_decoder(model), held_bytes(model))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return loaded()


def prompts_of(model: LoadedModel, lengths: tuple[int, ...] = (5, 3, 5, 2, 7)) -> list[Prompt]:
    """Prompts that the model finds likely: each token but the first is its own best guess."""
    texts = []
    for first, length in enumerate(lengths, 4):
        tokens = torch.tensor([[first]])
        for _ in range(length - 1):
            best = model.model(input_ids=tokens).logits[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, best], 1)
        texts.append(Prompt(tokens[0].tolist(), f"prompt {first}"))
    return texts


def identity() -> Sae:
    sae = Sae(CoderConfig(kind="relu", width=2 * D), D)
    signs = torch.cat([torch.eye(D), -torch.eye(D)])
    with torch.no_grad():
        sae.W_enc.copy_(signs)
        sae.W_dec.copy_(signs)
        sae.center.fill_(0.5)
    return sae


def nothing() -> Sae:
    return Sae(CoderConfig(kind="relu", width=8), D)


def some(seed: int = 0) -> Sae:
    """Rebuilds a part of what it is given."""
    sae = identity()
    with torch.no_grad():
        noise = torch.randn(sae.W_dec.shape, generator=torch.Generator().manual_seed(seed))
        sae.W_dec.add_(0.2 * noise)
    return sae


def by_hooks(
    model: LoadedModel, layer: int, change: Callable[[Tensor], Tensor], prompt: Prompt
) -> Tensor:
    """The logits of one prompt when a hook changes the output of a block."""
    block = model.model.get_submodule(f"model.layers.{layer}")
    hook = block.register_forward_hook(lambda module, args, out: change(out))
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([prompt.tokens])).logits[0]
    hook.remove()
    return logits


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "gpt_oss", "llama4"])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_it_is_what_hooks_and_every_logit_give(name: str, layer: int) -> None:
    model, sae = loaded(name), some()
    prompts = prompts_of(model)
    losses: dict[str, list[Tensor]] = {"without_sae": [], "with_sae": [], "with_ablation": []}
    divergences: dict[str, list[Tensor]] = {"with_sae": [], "with_ablation": []}
    changes = {"without_sae": lambda x: x, "with_sae": sae, "with_ablation": torch.zeros_like}
    for prompt in prompts:
        target = torch.tensor(prompt.tokens[1:])
        logits = {k: by_hooks(model, layer, change, prompt) for k, change in changes.items()}
        p = softmax(logits["without_sae"].double(), -1)
        for arm, found in logits.items():
            losses[arm].append(cross_entropy(found[:-1], target, reduction="none"))
            if arm in divergences:
                q = softmax(found.double(), -1)
                divergences[arm].append((p * (p.log() - q.log())).sum(-1))
    expected = {f"ce_loss_{arm}": torch.cat(all_).mean().item() for arm, all_ in losses.items()}
    expected |= {f"kl_div_{a}": torch.cat(all_).mean().item() for a, all_ in divergences.items()}
    ce, ablated = expected, expected["ce_loss_with_ablation"]
    expected["ce_loss_score"] = (ablated - ce["ce_loss_with_sae"]) / (
        ablated - ce["ce_loss_without_sae"]
    )
    expected["kl_div_score"] = 1 - expected["kl_div_with_sae"] / expected["kl_div_with_ablation"]
    found = recovered(model, prompts, {layer: sae}, 16)[layer].recovered
    assert found._asdict() == pytest.approx(expected, rel=2e-5, abs=1e-6)


def test_a_reconstruction_without_error_recovers_all(model: LoadedModel) -> None:
    found = recovered(model, prompts_of(model), {1: identity()}, 16)[1].recovered
    assert found.ce_loss_score == pytest.approx(1, abs=1e-5)
    assert found.ce_loss_with_sae == pytest.approx(found.ce_loss_without_sae, rel=1e-5)
    assert found.kl_div_with_sae == pytest.approx(0, abs=1e-6)
    assert found.kl_div_score == pytest.approx(1, abs=1e-5)


def test_a_reconstruction_of_zeros_recovers_nothing(model: LoadedModel) -> None:
    found = recovered(model, prompts_of(model), {1: nothing()}, 16)[1].recovered
    assert (found.ce_loss_score, found.kl_div_score) == (0, 0)
    assert found.ce_loss_with_sae == found.ce_loss_with_ablation > found.ce_loss_without_sae
    # zeros stay zeros in a model without biases, so every token is equally likely
    assert found.ce_loss_with_ablation == pytest.approx(math.log(VOCABULARY), rel=1e-6)


def test_several_layers_at_once_give_what_each_gives_alone(model: LoadedModel) -> None:
    prompts, saes = prompts_of(model), {0: some(), 2: some(1), 3: identity()}
    together = recovered(model, prompts, saes, 16)
    assert together == {k: recovered(model, prompts, {k: sae}, 16)[k] for k, sae in saes.items()}


def test_the_blocks_below_run_once_for_all_layers(model: LoadedModel) -> None:
    runs, prompts = [], prompts_of(model, (4, 4))
    blocks = list(model.decoder.blocks(3))
    hooks = [
        block.register_forward_hook(lambda *_, layer=layer: runs.append(layer))
        for layer, block in enumerate(blocks)
    ]
    recovered(model, prompts, {1: some(), 2: some()}, 64)
    for hook in hooks:
        hook.remove()
    assert [runs.count(layer) for layer in range(4)] == [1, 1, 1 + 2, 1 + 2 + 2]


@pytest.mark.parametrize("budget", [7, 16, 10_000])
def test_the_budget_moves_no_number(model: LoadedModel, budget: int) -> None:
    prompts = prompts_of(model)
    one, other = (recovered(model, prompts, {1: some()}, b)[1] for b in (64, budget))
    assert one.recovered._asdict() == pytest.approx(other.recovered._asdict(), rel=1e-5)
    assert one.token._asdict() == pytest.approx(other.token._asdict(), rel=1e-5)


def test_chunks_of_logits_move_no_number(model: LoadedModel) -> None:
    prompts = prompts_of(model)
    whole = recovered(model, prompts, {1: some()}, 64)[1].recovered
    with mock.patch.object(room, "LOGITS", 3 * VOCABULARY + 1):
        chunks = recovered(model, prompts, {1: some()}, 64)[1].recovered
    assert chunks._asdict() == pytest.approx(whole._asdict(), rel=1e-5)


def test_the_quality_on_token_states_is_that_of_those_states(model: LoadedModel) -> None:
    prompts, states = prompts_of(model), []
    for prompt in prompts:
        by_hooks(model, 2, lambda x: states.append(x[0]) or x, prompt)
    found = recovered(model, prompts, {2: some()}, 16)[2].token
    expected = quality(some(), from_tensors({2: torch.cat(states)}), 2)
    assert found._asdict() == pytest.approx(expected._asdict(), rel=1e-5)


def test_a_prompt_of_one_token_predicts_nothing(model: LoadedModel) -> None:
    found = recovered(model, [Prompt([5], "one")], {1: some()}, 16)[1].recovered
    assert set(found.named()) == {
        "sae/kl_div_with_sae",
        "sae/kl_div_with_ablation",
        "sae/kl_div_score",
    }


def test_without_prompts_nothing_is_defined(model: LoadedModel) -> None:
    found = recovered(model, [], {1: some()}, 16)[1]
    assert found.recovered.named() == {}
    assert found.token.named() == {}


def test_every_name_is_listed(model: LoadedModel) -> None:
    found: InModel = recovered(model, prompts_of(model), {1: some()}, 16)[1]
    assert set(found.recovered.named()) <= set(SAE_QUALITY)
    assert len(found.recovered.named()) == 7


def test_the_same_prompts_give_the_same_bits(model: LoadedModel) -> None:
    prompts = prompts_of(model)
    assert recovered(model, prompts, {1: some()}, 16) == recovered(model, prompts, {1: some()}, 16)


def test_progress_is_told_batch_by_batch(model: LoadedModel) -> None:
    told: list[tuple[int, int]] = []
    recovered(model, prompts_of(model), {1: some()}, 16, lambda *done: told.append(done))
    assert told == [(i, 4) for i in (1, 2, 3, 4)]


def test_what_does_not_fit_is_refused(model: LoadedModel) -> None:
    prompts = prompts_of(model)
    with pytest.raises(CoderError, match="d_model 6 and those of layer 1 have 32"):
        recovered(model, prompts, {1: Sae(CoderConfig(width=8, k=2), 6)}, 16)
    with pytest.raises(ConfigError, match="layer=4, num_layers=4"):
        recovered(model, prompts, {4: some()}, 16)
    with pytest.raises(ModelError, match="The longest prompt must fit"):
        recovered(model, prompts, {1: some()}, 3)
