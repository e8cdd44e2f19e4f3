"""Coders, arms and a loaded toy for tests of edits and answers."""

import torch
from toys import COMMON, make_tokenizer, make_toy

from trimtab.edits.arms import BASELINE, Arm, Coder, Materials
from trimtab.models.blocks import find_decoder
from trimtab.models.held import Held
from trimtab.models.loading import LoadedModel
from trimtab.sae.coder import CoderConfig, Sae

D_MODEL = COMMON["hidden_size"]
WIDTH = 64


def make_sae(kind: str = "topk", seed: int = 0, d_model: int = D_MODEL) -> Sae:
    """A random coder with unit decoder rows, a centre and thresholds."""
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(CoderConfig(kind=kind, width=WIDTH, k=4), d_model)
    with torch.no_grad():
        for weight in (sae.W_enc, sae.W_dec, sae.center):
            weight.copy_(torch.randn(weight.shape, generator=generator))
        for bias in (sae.b_enc, sae.b_dec, sae.threshold):
            bias.copy_(0.1 * torch.rand(bias.shape, generator=generator))
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    return sae.requires_grad_(requires_grad=False)


def make_materials() -> Materials:
    """Two coders and a direction."""
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(9))
    coders = {"aligned": Coder(make_sae("topk")), "plain": Coder(make_sae("relu", seed=1))}
    return Materials(coders, {"away": direction})


def make_arms() -> list[Arm]:
    """One of each kind, at three layers."""
    return [
        BASELINE,
        Arm(name="weak", kind="blend", layer=1, alpha=0.1, coder="aligned"),
        Arm(name="strong", kind="blend", layer=1, alpha=0.4, coder="aligned"),
        Arm(name="delta", kind="delta", layer=1, alpha=0.3, coder="aligned", against="plain"),
        Arm(name="direction", kind="direction", layer=2, alpha=0.5, direction="away"),
        Arm(name="noise", kind="noise", layer=3, alpha=0.2, coder="plain", direction="away"),
    ]


def loaded_toy(name: str = "llama") -> LoadedModel:
    """A toy as `load` would give it."""
    model = make_toy(name)
    return LoadedModel(model, make_tokenizer(), find_decoder(model), Held({}, {}))
