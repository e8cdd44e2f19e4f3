"""The final norm and head of a model, run by themselves."""

import pytest
import torch
from toys import watched_head
from transformers import PreTrainedModel

from trimtab.models.blocks import Decoder, find_decoder
from trimtab.models.readout import contiguous_head, read_out


def last_states(model: PreTrainedModel, decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    seen = []
    hook = list(decoder.blocks(3))[-1].register_forward_hook(lambda *call: seen.append(call[2]))
    model(input_ids=tokens)
    hook.remove()
    return seen[0]


def test_the_logits_are_the_models_own_whatever_the_architecture(toy: PreTrainedModel) -> None:
    decoder, tokens = find_decoder(toy), torch.tensor([[5, 6, 7, 8], [9, 5, 4, 3]])
    states = last_states(toy, decoder, tokens)
    found = read_out(toy, decoder, states.flatten(0, 1))
    expected = toy(input_ids=tokens).logits.flatten(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_what_a_model_does_after_its_head_is_done_too(llama_toy: PreTrainedModel) -> None:
    class Capped(torch.nn.Module):
        """A head with a soft cap, as some architectures have."""

        def __init__(self, head: torch.nn.Module) -> None:
            super().__init__()
            self.head = head

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return 0.1 * torch.tanh(self.head(hidden) / 0.1)

    decoder, tokens = find_decoder(llama_toy), torch.tensor([[5, 6, 7]])
    llama_toy.lm_head = Capped(llama_toy.lm_head)
    states = last_states(llama_toy, decoder, tokens)[0]
    found = read_out(llama_toy, decoder, states)
    assert found.abs().max() <= 0.1
    torch.testing.assert_close(found, llama_toy(input_ids=tokens).logits[0], rtol=0, atol=1e-6)


def test_a_position_does_not_see_its_neighbours(llama_toy: PreTrainedModel) -> None:
    decoder = find_decoder(llama_toy)
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    alone = read_out(llama_toy, decoder, states[2:3])
    torch.testing.assert_close(read_out(llama_toy, decoder, states)[2:3], alone, rtol=0, atol=1e-6)


def test_the_model_is_as_it_was_afterwards_even_if_the_head_fails(
    llama_toy: PreTrainedModel,
) -> None:
    decoder = find_decoder(llama_toy)
    blocks = list(decoder.blocks(3))
    with pytest.raises(RuntimeError):
        read_out(llama_toy, decoder, torch.zeros(2, 31))
    assert list(decoder.blocks(3)) == blocks


def test_the_head_gets_a_slice_in_one_piece_and_only_inside_the_block(
    toy: PreTrainedModel,
) -> None:
    tokens = torch.tensor([[5, 6, 7, 8], [9, 5, 4, 3]])
    with watched_head(toy) as seen:
        plain = toy(input_ids=tokens, logits_to_keep=1).logits
        with contiguous_head(toy):
            found = toy(input_ids=tokens, logits_to_keep=1).logits
        toy(input_ids=tokens, logits_to_keep=1)
    assert seen == [False, True, False]
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-6)
