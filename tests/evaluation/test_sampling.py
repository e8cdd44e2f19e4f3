import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, TopPLogitsWarper

from trimtab.core.seeds import Seed
from trimtab.evaluation.decoding import DecodingConfig
from trimtab.evaluation.sampling import Sampler, invert, penalised

DRAWN = DecodingConfig(max_new_tokens=8, template="raw")
GREEDY = DRAWN.model_copy(update={"temperature": 0.0})


def logits(rows: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, 50, generator=torch.Generator().manual_seed(seed))


def test_the_penalty_is_that_of_transformers() -> None:
    scores, prompt = logits(3), torch.tensor([[1, 2, 2], [9, 9, 9], [0, 49, 7]])
    said = torch.zeros(3, 50, dtype=torch.bool).scatter_(1, prompt, value=True)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(prompt, scores)
    torch.testing.assert_close(penalised(scores, said, 1.3), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
def test_draws_are_spread_as_transformers_would_spread_them(top_p: float) -> None:
    scores, uniform = logits(1), (torch.arange(20_000) + 0.5) / 20_000
    many = invert(scores.softmax(-1).expand(20_000, -1), top_p, uniform)
    found = many.bincount(minlength=50) / 20_000
    kept = TopPLogitsWarper(top_p)(torch.zeros(1, 1, dtype=torch.int64), scores)
    torch.testing.assert_close(found, kept.softmax(-1)[0], rtol=0, atol=2e-4)


@given(st.integers(0, 1_000), st.floats(0.01, 1.0), st.floats(0.0, 1.0, exclude_max=True, width=32))
def test_a_token_outside_the_nucleus_is_never_drawn(seed: int, top_p: float, u: float) -> None:
    probabilities = logits(1, seed).softmax(-1)
    token = int(invert(probabilities, top_p, torch.tensor([u]))[0])
    likelier = probabilities[0][probabilities[0] > probabilities[0, token]].sum()
    assert float(likelier) < top_p + 1e-6


def test_a_certain_token_is_drawn_whatever_the_number() -> None:
    certain = torch.zeros(3, 5)
    certain[:, 4] = 1
    assert invert(certain, 1.0, torch.tensor([0.0, 0.5, 0.9999999])).tolist() == [4, 4, 4]


def test_a_rows_tokens_do_not_depend_on_its_neighbours_or_its_place() -> None:
    seeds, prompts = [Seed(i) for i in range(4)], torch.arange(12).view(4, 3)
    together = Sampler(DRAWN, seeds, prompts, 50)
    alone = Sampler(DRAWN, [seeds[2]], prompts[2:3], 50)
    for step in range(4):
        scores = logits(4, step)
        assert together.draw(scores)[2] == alone.draw(scores[2:3])[0]
    together.keep(torch.tensor([2, 0]))
    for step in range(4, 8):
        scores = logits(4, step)
        assert together.draw(scores[[2, 0]])[0] == alone.draw(scores[2:3])[0]


@pytest.mark.parametrize("decoding", [DRAWN, GREEDY])
def test_logits_that_are_not_numbers_give_some_token_and_leave_other_rows_alone(
    decoding: DecodingConfig,
) -> None:
    scores = logits(4, 0)
    sound = Sampler(decoding, [Seed(3)], torch.ones(1, 1, dtype=torch.int64), 50).draw(scores[3:])
    scores[0, 7], scores[1], scores[2, 9] = torch.nan, -torch.inf, torch.inf
    sampler = Sampler(
        decoding, [Seed(i) for i in range(4)], torch.ones(4, 1, dtype=torch.int64), 50
    )
    drawn = sampler.draw(scores).tolist()
    assert all(0 <= token < 50 for token in drawn)
    assert drawn[3] == sound.item()


def test_draws_repeat_by_seed_and_differ_between_seeds() -> None:
    def drawn(seed: int) -> list[int]:
        sampler = Sampler(DRAWN, [Seed(seed)], torch.zeros(1, 1, dtype=torch.int64), 50)
        return [int(sampler.draw(torch.zeros(1, 50))) for _ in range(8)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_greedy_takes_the_likeliest_and_the_penalty_counts_what_was_said() -> None:
    scores = torch.tensor([[2.0, 1.9, 1.8, -1.0]])
    plain = GREEDY.model_copy(update={"repetition_penalty": 1.0})
    prompt = torch.tensor([[3]])
    same = Sampler(plain, [Seed(0)], prompt, 4)
    assert [int(same.draw(scores)) for _ in range(3)] == [0, 0, 0]
    pushed = Sampler(GREEDY.model_copy(update={"repetition_penalty": 2.0}), [Seed(0)], prompt, 4)
    assert [int(pushed.draw(scores)) for _ in range(4)] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    "fields",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}],
)
def test_settings_out_of_range_are_refused(fields: dict) -> None:
    with pytest.raises(ValidationError):
        DecodingConfig(**fields)


def test_raw_prompts_have_no_system_prompt() -> None:
    with pytest.raises(ValidationError, match="need `template: chat`"):
        DecodingConfig(template="raw", system="be good")


def test_flames_decodes_as_the_study_steered() -> None:
    flames = DecodingConfig.flames()
    found = (flames.temperature, flames.top_p, flames.repetition_penalty, flames.max_new_tokens)
    assert found == (0.7, 0.9, 1.1, 512)
    assert flames.system
    assert flames.thinking is None
