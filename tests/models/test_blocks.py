"""Finding a decoder and proving that its blocks can run by themselves."""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.core.errors import ModelError
from trimtab.models.blocks import find_decoder


def test_the_decoder_of_every_architecture_is_found(toy: PreTrainedModel) -> None:
    decoder = find_decoder(toy)
    assert (decoder.num_layers, decoder.d_model) == (4, 32)


def test_looking_at_a_model_leaves_it_as_it_was(toy: PreTrainedModel) -> None:
    tokens = torch.tensor([[5, 6, 7]])
    before = toy(input_ids=tokens).logits
    find_decoder(toy).start(tokens)
    assert torch.equal(toy(input_ids=tokens).logits, before)
    assert not any(module._forward_hooks for module in toy.modules())


def test_the_blocks_come_back_when_the_forward_fails(llama_toy: PreTrainedModel) -> None:
    decoder = find_decoder(llama_toy)
    blocks = list(decoder.blocks(3))
    with pytest.raises(IndexError):
        decoder.start(torch.tensor([[999]]))
    assert list(decoder.blocks(3)) == blocks


def test_an_unknown_architecture_lists_what_was_looked_for() -> None:
    with pytest.raises(ModelError, match=r"Sequential.*embed_tokens or wte.*layers or h.*0 do"):
        find_decoder(nn.Sequential(nn.Linear(2, 2)))


def test_a_decoder_that_works_between_its_blocks_is_refused(llama_toy: PreTrainedModel) -> None:
    class Doubling(nn.Module):
        """Owns blocks as a decoder does, and doubles the residual stream between them."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.embed_tokens, self.layers = inner.embed_tokens, inner.layers
            self.rotary_emb, self.config = inner.rotary_emb, inner.config

        def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
            hidden = self.embed_tokens(input_ids)
            positions = self.rotary_emb(hidden, torch.arange(input_ids.shape[1])[None])
            for layer in self.layers:
                hidden = 2 * layer(hidden, position_embeddings=positions)
            return hidden

    with pytest.raises(ModelError, match="something happens between its blocks"):
        find_decoder(Doubling(llama_toy.get_submodule("model")))


def test_a_block_of_another_width_is_refused(llama_toy: PreTrainedModel) -> None:
    class Narrow(nn.Module):
        def forward(self, hidden: Tensor, **_: object) -> Tensor:
            return hidden[..., :16]

    llama_toy.get_submodule("model").layers[3] = Narrow()
    with pytest.raises(ModelError, match=r"block 3 of LlamaModel returned \(1, 2, 16\)"):
        find_decoder(llama_toy)
