"""How much of a model's next-token prediction survives an autoencoder's reconstruction?

On held-out prompts, the output of block L is replaced at every position by SAE(x), or by zeros, and
the blocks above go on from there. Under SAEBench's names:

    ce_loss_without_sae, ce_loss_with_sae, ce_loss_with_ablation
                     mean cross-entropy in nats, over the positions that have a next token
    ce_loss_score    (with_ablation - with_sae) / (with_ablation - without_sae): 1 when nothing is
                     lost, 0 when the reconstruction is no better than zeros
    kl_div_with_sae, kl_div_with_ablation
                     mean KL(model as it is || model with the replacement), over all positions
    kl_div_score     1 - kl_div_with_sae / kl_div_with_ablation

The states that the autoencoder meets here are those of single tokens. One that was trained on means
over a prompt's tokens has never seen such, so its quality on them is measured on the way.

Exact-length batches run the model's own blocks. The pass below and through all layers is shared:
m layers of an N-block model cost one full pass and, for each L, twice the N - L - 1 blocks above it.
Memory: m x the batch's states (33 MB a layer at 4,096 tokens x 4,096 in bf16), and a chunk's logits
(`LOGITS` elements a copy, five at a time), whatever the vocabulary.

SAEBench 0.6 `core`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from trimtab.models.batching import plan_batches
from trimtab.models.blocks import Call
from trimtab.models.engine import Prompt, Request, check_request
from trimtab.models.loading import LoadedModel
from trimtab.models.readout import read_out
from trimtab.sae.coder import Sae
from trimtab.sae.evaluate import Quality, QualityFold, check_width

LOGITS: Final = 2**25
"""Most logits at a time: 134 MB in float32, 220 positions of a vocabulary of 152k."""


class Recovered(NamedTuple):
    """What the module's table defines; a field is NaN where it is undefined."""

    ce_loss_without_sae: float
    ce_loss_with_sae: float
    ce_loss_with_ablation: float
    ce_loss_score: float
    kl_div_with_sae: float
    kl_div_with_ablation: float
    kl_div_score: float

    def named(self) -> dict[str, float]:
        """The defined ones, as metrics."""
        return {f"sae/{k}": v for k, v in self._asdict().items() if np.isfinite(v)}


class InModel(NamedTuple):
    """An autoencoder in its place in the model."""

    recovered: Recovered
    """What its reconstruction does to the next tokens."""
    token: Quality
    """Its quality on the states of single tokens, every position of every prompt."""


class _Sums(NamedTuple):
    """Over the positions seen, one value each for the model as it is, with the SAE, with zeros."""

    predictions: int
    """Positions that have a next token."""
    positions: int
    cross_entropy: Float[np.ndarray, "3"]
    divergence: Float[np.ndarray, "3"]

    def plus(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.predictions + other.predictions,
            self.positions + other.positions,
            self.cross_entropy + other.cross_entropy,
            self.divergence + other.divergence,
        )

    def finish(self) -> Recovered:
        with np.errstate(divide="ignore", invalid="ignore"):
            without, sae, ablated = self.cross_entropy / self.predictions
            _, sae_kl, ablated_kl = self.divergence / self.positions
            score = (ablated - sae) / (ablated - without)
            kl_score = (ablated_kl - sae_kl) / ablated_kl
        found = (without, sae, ablated, score, sae_kl, ablated_kl, kl_score)
        return Recovered(*map(float, found))


_NOTHING: Final = _Sums(0, 0, np.zeros(3), np.zeros(3))


@torch.inference_mode()
def recovered(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    saes: Mapping[int, Sae],
    token_budget: int,
    report: Callable[[int, int], None] = lambda *_: None,
) -> dict[int, InModel]:
    """Measures each layer's autoencoder by itself, the other layers being as they are.

    Args:
        prompts: held-out ones.
        saes: by layer; each is applied in float32 on the device of the block's output.
        token_budget: most tokens in one batch.
        report: told (batches done, of).

    Raises:
        CoderError: an autoencoder of another width than the model.
        ConfigError: a layer that the model does not have.
        ModelError: a prompt that is longer than the budget.
    """
    decoder = model.decoder
    check_request(Request(layers=tuple(saes)), decoder.num_layers)
    for layer, sae in saes.items():
        check_width(sae, decoder.d_model, layer)
    folds = {layer: QualityFold(sae) for layer, sae in saes.items()}
    tokens_seen = {layer: fold.zero() for layer, fold in folds.items()}
    sums = dict.fromkeys(saes, _NOTHING)
    batches = plan_batches([len(prompt.tokens) for prompt in prompts], token_budget)
    for done, batch in enumerate(batches, 1):
        tokens = torch.tensor([prompts[i].tokens for i in batch.which], device=decoder.device)
        states, calls = _as_it_is(model, tokens, set(saes))
        for layer, fold in folds.items():
            x = states[layer]
            flat = x.flatten(0, 1)
            fold.sae.to(x.device)
            tokens_seen[layer] = fold.seen(tokens_seen[layer], flat)
            rebuilt = fold.sae(flat.float()).view(x.shape).to(x.dtype)
            ends = [states[decoder.num_layers - 1]]
            ends += [_resumed(model, layer, y, calls) for y in (rebuilt, torch.zeros_like(x))]
            sums[layer] = sums[layer].plus(_losses(model, ends, tokens))
        report(done, len(batches))
    return {
        layer: InModel(sums[layer].finish(), fold.finish(tokens_seen[layer]))
        for layer, fold in folds.items()
    }


def _as_it_is(
    model: LoadedModel, tokens: Int[Tensor, "batch tokens"], keep: set[int]
) -> tuple[dict[int, Tensor], list[Call]]:
    """The outputs of the blocks to be kept and of the last one, and what each block is called with."""
    last = model.decoder.num_layers - 1
    hidden, calls = model.decoder.start(tokens)
    states = {}
    for layer, block in enumerate(model.decoder.blocks(last)):
        hidden = block(hidden, *calls[layer].args, **calls[layer].kwargs)
        if layer in keep or layer == last:
            states[layer] = hidden
    return states, calls


def _resumed(
    model: LoadedModel, layer: int, hidden: Tensor, calls: Sequence[Call]
) -> Float[Tensor, "batch tokens d_model"]:
    """The last block's output when a layer's output is `hidden`."""
    last = model.decoder.num_layers - 1
    for i, block in enumerate(model.decoder.blocks(last, layer + 1), layer + 1):
        hidden = block(hidden, *calls[i].args, **calls[i].kwargs)
    return hidden


def _losses(
    model: LoadedModel, ends: Sequence[Tensor], tokens: Int[Tensor, "batch tokens"]
) -> _Sums:
    """Sums over a batch's positions, a chunk of logits at a time.

    Args:
        ends: the last block's outputs, [batch, tokens, d_model]; the model as it is comes first.
    """
    no_next = -100  # what cross_entropy leaves out
    targets = torch.full_like(tokens, no_next)
    targets[:, :-1] = tokens[:, 1:]
    flat = targets.flatten()
    sums = torch.zeros(2, len(ends), dtype=torch.float64)
    chunk = max(1, LOGITS // model.model.config.get_text_config().vocab_size)
    for start in range(0, len(flat), chunk):
        part = slice(start, start + chunk)
        log_p: Tensor | None = None
        for i, end in enumerate(ends):
            logits = read_out(model.model, model.decoder, end.flatten(0, 1)[part]).float()
            log_q = logits.log_softmax(-1)
            log_p = log_q if log_p is None else log_p
            target = flat[part].to(log_q.device)
            losses = cross_entropy(logits, target, ignore_index=no_next, reduction="none")
            away = kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
            sums[0, i] += losses.sum(dtype=torch.float64).cpu()
            sums[1, i] += away.sum(dtype=torch.float64).cpu()
    cross_entropies, divergences = sums.numpy()
    predictions = int((flat != no_next).sum())
    return _Sums(predictions, len(flat), cross_entropies, divergences)
