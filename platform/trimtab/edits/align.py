"""Aligns a sparse autoencoder: trains its moral latents, and nothing else.

Only the chosen latents' encoder rows, encoder biases and decoder rows are trained (`align_part`);
everything else, the decoder's bias included, comes out bitwise as it was. The coder given is not
changed. Validation rows choose the epoch whose weights are kept; they have also identified the
latents, so the test rows alone judge the result (`align_compare`).

Cost of a step: one encoding and decoding by the whole coder, without gradients, and by m latents
with gradients; batch x width float32 twice.

Li, Teng and Wang 2026, arXiv 2603.15615; docs: METHODS 1.7.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.core.errors import DataError, TrainingError
from trimtab.core.seeds import Seed
from trimtab.edits import align_losses as losses
from trimtab.edits.align_config import AlignConfig
from trimtab.edits.align_part import Part
from trimtab.edits.align_sampling import pairs_of, row_weights
from trimtab.edits.align_sets import choose
from trimtab.locate.folds import Data, batches
from trimtab.locate.latents import Located
from trimtab.sae.coder import Sae


class Epoch(NamedTuple):
    """The mean losses of one epoch: `loss`, and each term before it is weighted."""

    train: dict[str, float]
    validation: dict[str, float]


class Aligned(NamedTuple):
    """What an alignment gives."""

    sae: Sae
    """A new coder; that of the best epoch."""
    trained: Int[np.ndarray, " m"]
    """The latents that were trained; none where no latent is above the threshold."""
    epochs: list[Epoch]
    """In order; empty where nothing was trained."""
    best: int
    """The epoch, from 1, whose weights were kept; 0 is the coder as given."""


def align(
    sae: Sae,
    located: Located,
    train: Data,
    validation: Data,
    config: AlignConfig,
    seed: Seed,
    told: Callable[[int, Epoch], None] = lambda *_: None,
) -> Aligned:
    """Trains the moral latents of a coder, on the coder's device.

    Args:
        located: its latents, found on validation rows.
        train: rows to train on.
        validation: rows that say when to stop.
        seed: of the draws; the same one gives the same bits.
        told: hears of each epoch.

    Raises:
        DataError: there are no rows to train or to stop on.
        TrainingError: the loss is not a number.
        CoderError: the coder is of another width than the rows.
    """
    for data, what in ((train, "training"), (validation, "validation")):
        if not len(data.labels):
            raise DataError(
                f"An alignment needs {what} rows, but there are none. Change `data.fractions`."
            )
    chosen = choose(located.sets, located.r, sae.center.device)
    if not located.sets.found:
        return Aligned(copy.deepcopy(sae), chosen.latents.cpu().numpy()[:0], [], 0)
    part = Part(sae, chosen, unit_of(sae, train, config))
    best, best_loss, kept = 0, float("inf"), part.weights()
    epochs: list[Epoch] = []
    for epoch in _training(part, train, validation, config, seed):
        epochs.append(epoch)
        told(len(epochs), epoch)
        if epoch.validation["loss"] < best_loss:
            best, best_loss, kept = len(epochs), epoch.validation["loss"], part.weights()
        if len(epochs) - best >= config.patience:
            break
    return Aligned(part.put_into(sae, kept), chosen.latents.cpu().numpy(), epochs, best)


def unit_of(sae: Sae, data: Data, config: AlignConfig) -> float:
    """The length that the loss counts in: 1, or the rows' root mean square about the centre."""
    if config.unit == "raw":
        return 1.0
    squares = [
        (x.to(sae.center) - sae.center).double().square().sum().item()
        for _, x in batches(sae, data, config.batch)
    ]
    return max(math.sqrt(sum(squares) / (len(data.labels) * sae.d_model)), 1e-12)


def terms(
    part: Part,
    x: Float[Tensor, "n d_model"],
    vector: Float[Tensor, "n 10"],
    config: AlignConfig,
    draw: np.random.Generator,
) -> dict[str, Float[Tensor, ""]]:
    """Each term of the loss on a batch, before it is weighted.

    Args:
        draw: gives the pairs of the prototype term.
    """
    chosen, limits = part.chosen, config.limits
    z, rest = part.encode(x)
    found = part.rest.decode(rest) + z @ part.own.W_dec
    host = vector.cpu().numpy()
    drawn = pairs_of(host, limits.prototype_pairs, limits.prototype_min_rows, draw)
    pairs = [(torch.from_numpy(i).to(x.device), torch.from_numpy(j).to(x.device)) for i, j in drawn]
    return {
        "reconstruction": (found - x).square().mean(),
        "sparsity": (z.sum() + rest.sum()) / rest.numel(),
        "align": losses.align(z, vector, chosen.dimensions),
        "polarity": losses.polarity(
            z,
            vector,
            chosen.poles,
            margin=limits.polarity_margin,
            above=limits.polarity_above,
            min_rows=limits.polarity_min_rows,
        ),
        "prototype": losses.prototype(z, vector, chosen.dimensions, pairs, limits.prototype_margin),
        "mono": losses.mono(
            z[:, chosen.strict], vector, chosen.strict_dimension, as_released=config.as_released
        ),
    }


def _training(
    part: Part, train: Data, validation: Data, config: AlignConfig, seed: Seed
) -> Iterator[Epoch]:
    """Trains, one epoch each time it is asked."""
    probability = row_weights(train.labels, config.sampling)
    rows, pairs = seed.child("align/rows").numpy(), seed.child("align/pairs").numpy()
    n = len(probability)
    optimiser = torch.optim.AdamW(
        part.parameters, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps = config.epochs * math.ceil(n / config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=max(steps, 2), pct_start=config.warm_up
    )
    for _ in range(config.epochs):
        drawn = rows.choice(n, size=n, p=probability)
        total = _Mean()
        for start in range(0, n, config.batch):
            which = drawn[start : start + config.batch]
            x = train.rows.gather(train.layer, which)
            found, loss = _loss(part, x, train.labels.vector[which], config, pairs)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            part.keep_lengths()
            total.add(found, len(which))
        yield Epoch(total.mean(), _held_out(part, validation, config, seed))


@torch.no_grad()
def _held_out(part: Part, data: Data, config: AlignConfig, seed: Seed) -> dict[str, float]:
    """The losses on rows that are not trained on, with the same pairs every time."""
    total, pairs = _Mean(), seed.child("align/held-out").numpy()
    for which, x in batches(part.rest, data, config.batch):
        found, _ = _loss(part, x, data.labels.vector[which], config, pairs)
        total.add(found, len(which))
    return total.mean()


def _loss(
    part: Part,
    x: Float[Tensor, "n d_model"],
    vector: Float[np.ndarray, "n 10"],
    config: AlignConfig,
    draw: np.random.Generator,
) -> tuple[dict[str, Tensor], Float[Tensor, ""]]:
    """Every loss of a batch, and the one that is stepped on.

    Raises:
        TrainingError: it is not a number.
    """
    x = x.to(part.own.center) / part.unit
    found = terms(part, x, torch.from_numpy(vector).to(x), config, draw)
    weights = config.weights.model_dump()
    loss = torch.stack([weights[name] * value for name, value in found.items()]).sum()
    if not torch.isfinite(loss):
        raise TrainingError(
            "The alignment's loss must be a number, but is "
            f"{ {name: value.item() for name, value in found.items()} }. Lower `learning_rate`, "
            "or look for activations that are not finite."
        )
    return found | {"loss": loss}, loss


class _Mean:
    """Means of named losses, weighted by rows."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._rows = 0

    def add(self, found: dict[str, Tensor], rows: int) -> None:
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + rows * value.item()
        self._rows += rows

    def mean(self) -> dict[str, float]:
        return {name: value / self._rows for name, value in self._sums.items()}
