"""Scores from a shared prefix are those of a hooked forward."""

import numpy as np
import pytest
import torch
from armed_toys import loaded_toy, make_arms, make_materials
from torch import Tensor
from toys import TOYS, make_toy

from trimtab.core.errors import ConfigError, DataError, ModelError
from trimtab.edits.arms import BASELINE, Arm
from trimtab.edits.steering import steer
from trimtab.evaluation.decoding import DecodingConfig
from trimtab.evaluation.prompts import Question
from trimtab.evaluation.resume import Resumable
from trimtab.evaluation.scores import (
    Choice,
    Given,
    log_probabilities,
    margins,
    nursery_choices,
    resumed,
)
from trimtab.models.blocks import locate_decoder
from trimtab.models.nursery_text import NurseryRow
from trimtab.sae.coder import Sae

TOKENS = torch.randint(3, 64, (3, 9), generator=torch.Generator().manual_seed(1))
GIVEN = [
    Given([5, 6, 7], [8]),
    Given([9, 5], [3, 4]),
    Given([5, 6, 7], [3, 9, 11]),
    Given([20], [21, 22, 23, 24]),
]


@torch.inference_mode()
def last_states(name: str, arm: Arm) -> Tensor:
    """The last block's output of a whole hooked forward."""
    model, seen = make_toy(name), []
    *_, last = locate_decoder(model).blocks(3)
    with steer(model, arm, make_materials()):
        last.register_forward_hook(lambda _block, _args, hidden: seen.append(hidden))
        model(TOKENS)
    return seen[0]


@torch.inference_mode()
def by_forward(name: str, given: Given, arm: Arm) -> float:
    """The sum of log-probabilities from one plain forward of prompt and answer."""
    model = make_toy(name)
    tokens = torch.tensor([[*given.prompt, *given.answer]])
    with steer(model, arm, make_materials()):
        logs = model(tokens).logits[0].double().log_softmax(-1)
    places = range(len(given.prompt) - 1, tokens.shape[1] - 1)
    return sum(float(logs[p, t]) for p, t in zip(places, given.answer, strict=True))


@pytest.mark.parametrize("name", TOYS)
@torch.inference_mode()
def test_a_resumed_arm_has_the_hooked_forwards_residuals_to_the_bit(name: str) -> None:
    arms = make_arms()
    found = dict(resumed(Resumable(make_toy(name)), TOKENS, arms, make_materials()))
    assert sorted(found) == list(range(len(arms)))
    for number, arm in enumerate(arms):
        assert torch.equal(found[number], last_states(name, arm))


@pytest.mark.parametrize("name", TOYS)
def test_log_probabilities_are_those_of_a_plain_forward(name: str) -> None:
    arms = make_arms()
    found = log_probabilities(Resumable(make_toy(name)), GIVEN, arms, make_materials())
    expected = [[by_forward(name, one, arm) for one in GIVEN] for arm in arms]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert np.ptp(found, axis=0).min() > 0.01


def test_batches_do_not_matter() -> None:
    model, arms = Resumable(make_toy("llama")), make_arms()
    wide = log_probabilities(model, GIVEN * 3, arms, make_materials(), 1_024)
    narrow = log_probabilities(model, GIVEN * 3, arms, make_materials(), 5)
    np.testing.assert_allclose(wide, narrow, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(wide[:, :4], wide[:, 4:8])


def test_what_is_below_an_edit_runs_once_and_a_coder_encodes_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ran, encoded = Resumable(make_toy("llama")), [], []
    for layer, block in enumerate(model.decoder.blocks(3)):
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    real = Sae.preactivations
    monkeypatch.setattr(
        Sae, "preactivations", lambda self, x: encoded.append(len(x)) or real(self, x)
    )
    arms = [
        Arm(name=f"{layer}/{alpha}", kind="blend", layer=layer, alpha=alpha, coder="aligned")
        for layer in (2, 1)
        for alpha in (0.1, 0.2, 0.3)
    ]
    log_probabilities(model, [Given([4, 5], [6])], arms, make_materials())
    assert [ran.count(layer) for layer in range(4)] == [1, 1, 1 + 3, 3 + 3]
    assert len(encoded) == 2


def test_the_head_sees_scored_positions_only() -> None:
    loaded, seen = loaded_toy(), []
    head = loaded.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:-1].numel()))
    log_probabilities(
        Resumable(loaded.model), [Given([4] * 9, [6, 7])], [BASELINE], make_materials()
    )
    assert seen == [2]


def test_a_prefix_ends_at_the_deepest_layer_and_leaves_the_model_alone() -> None:
    model = Resumable(make_toy("llama"))
    before = model.model(TOKENS).logits
    with torch.inference_mode():
        prefixes = list(model.prefixes(TOKENS, {2, 0}))
        assert [prefix.layer for prefix in prefixes] == [0, 2]
        last = model.resume(prefixes[0], prefixes[0].hidden)
        assert torch.equal(last, model.resume(prefixes[1], prefixes[1].hidden))
        assert torch.equal(model.logits(last[:, -1]), before[:, -1])
    assert torch.equal(model.model(TOKENS).logits, before)
    with pytest.raises(ConfigError, match="layer=4, num_layers=4"):
        model.prefixes(TOKENS, [1, 4])


def test_bad_input_is_named() -> None:
    model, materials = Resumable(make_toy("llama")), make_materials()
    with pytest.raises(DataError, match="but 1 has not"):
        log_probabilities(model, [GIVEN[0], Given([1], [])], [BASELINE], materials)
    with pytest.raises(ConfigError, match="occur twice"):
        log_probabilities(model, GIVEN, [BASELINE, BASELINE], materials)
    with pytest.raises(ModelError, match="must fit into one batch"):
        log_probabilities(model, GIVEN, [BASELINE], materials, token_budget=2)
    assert log_probabilities(model, [], [BASELINE], materials).shape == (1, 0)


def test_a_margin_is_right_minus_wrong_and_turns_with_them() -> None:
    loaded, arms = loaded_toy(), make_arms()
    question = Question("q", "giving a his")
    choices = [Choice(question, "is the", "of in"), Choice(question, "of in", "is the")]
    raw = DecodingConfig(template="raw")
    found = margins(Resumable(loaded.model), loaded.tokenizer, choices, arms, make_materials(), raw)
    assert found.shape == (len(arms), 2)
    np.testing.assert_allclose(found[:, 0], -found[:, 1], rtol=0, atol=1e-5)
    prompt = loaded.tokenizer("giving a his")["input_ids"]
    right, wrong = (loaded.tokenizer(text)["input_ids"] for text in ("is the", "of in"))
    expected = by_forward("llama", Given(prompt, right), arms[1])
    expected -= by_forward("llama", Given(prompt, wrong), arms[1])
    assert found[1, 0] == pytest.approx(expected, abs=2e-5)


def test_nursery_choices_are_what_was_judged_and_its_opposite() -> None:
    rows = [
        NurseryRow("helping", 2, 4, ("care-harm",)),
        NurseryRow("waiting", 0, 4, ("care-harm",)),
        NurseryRow("lying", -1, 2, ("care-harm",)),
    ]
    good, bad = nursery_choices(rows)
    assert good == Choice(
        Question("0", "Is it right? helping"), "Yes, it is very good.", "No, it is very wrong."
    )
    assert (bad.right, bad.wrong) == ("No, it is fairly wrong.", "Yes, it is fairly good.")
