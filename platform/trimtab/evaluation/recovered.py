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

Exact-length batches run the model's own blocks (`evaluation.resume`). The pass through all layers
is shared: m layers of an N-block model cost one full pass and, for each L, twice the N - L - 1
blocks above it.
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

from trimtab.edits.change import reconstruction
from trimtab.evaluation.resume import Resumable
from trimtab.models.batching import plan_batches
from trimtab.models.engine import Prompt, Request, check_request
from trimtab.models.loading import LoadedModel
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
        saes: by layer; each is applied on the device and in the dtype that it is in.
        token_budget: most tokens in one batch.
        report: told (batches done, of).

    Raises:
        CoderError: an autoencoder of another width than the model.
        ConfigError: a layer that the model does not have.
        ModelError: a prompt that is longer than the budget.
    """
    resumable = Resumable(model.model)
    decoder, last = resumable.decoder, resumable.decoder.num_layers - 1
    check_request(Request(layers=tuple(saes)), decoder.num_layers)
    for layer, sae in saes.items():
        check_width(sae, decoder.d_model, layer)
    folds = {layer: QualityFold(sae) for layer, sae in saes.items()}
    tokens_seen = {layer: fold.zero() for layer, fold in folds.items()}
    sums = dict.fromkeys(saes, _NOTHING)
    chunk = max(1, LOGITS // model.model.config.get_text_config().vocab_size)
    batches = plan_batches([len(prompt.tokens) for prompt in prompts], token_budget)
    for done, batch in enumerate(batches, 1):
        tokens = torch.tensor([prompts[i].tokens for i in batch.which], device=decoder.device)
        prefixes = {p.layer: p for p in resumable.prefixes(tokens, {*saes, last})}
        for layer, fold in folds.items():
            prefix, x = prefixes[layer], prefixes[layer].hidden
            tokens_seen[layer] = fold.seen(tokens_seen[layer], x.flatten(0, 1))
            rebuilt = reconstruction(fold.sae, x).to(x.dtype)
            ends = [prefixes[last].hidden]
            ends += [resumable.resume(prefix, y) for y in (rebuilt, torch.zeros_like(x))]
            sums[layer] = sums[layer].plus(_losses(resumable, ends, tokens, chunk))
        report(done, len(batches))
    return {
        layer: InModel(sums[layer].finish(), fold.finish(tokens_seen[layer]))
        for layer, fold in folds.items()
    }


def _losses(
    model: Resumable, ends: Sequence[Tensor], tokens: Int[Tensor, "batch tokens"], chunk: int
) -> _Sums:
    """Sums over a batch's positions, a chunk of logits at a time.

    Args:
        ends: the last block's outputs, [batch, tokens, d_model]; the model as it is comes first.
        chunk: positions whose logits there are at a time.
    """
    no_next = -100  # what cross_entropy leaves out
    targets = torch.full_like(tokens, no_next)
    targets[:, :-1] = tokens[:, 1:]
    flat = targets.flatten()
    sums = torch.zeros(2, len(ends), dtype=torch.float64)
    for start in range(0, len(flat), chunk):
        part = slice(start, start + chunk)
        log_p: Tensor | None = None
        for i, end in enumerate(ends):
            logits = model.logits(end.flatten(0, 1)[part]).float()
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
