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
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.core.errors import DataError, TrainingError
from trimtab.core.files import finished_file
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


class Alignment:
    """An alignment on its way, epoch by epoch; saved between two epochs, it goes on to the same bits."""

    def __init__(
        self,
        sae: Sae,
        located: Located,
        train: Data,
        validation: Data,
        config: AlignConfig,
        seed: Seed,
    ) -> None:
        """Begins, on the coder's device; there must be latents to train (`located.sets.found`).

        Args:
            located: the coder's latents, found on validation rows.
            train: rows to train on.
            validation: rows that say when to stop.
            seed: of the draws; the same one gives the same bits.

        Raises:
            DataError: there are no rows to train or to stop on.
            CoderError: the coder is of another width than the rows.
        """
        assert located.sets.found, "there must be latents to train"
        _require_rows(train, validation)
        self._sae, self._train, self._validation = sae, train, validation
        self._config, self._seed = config, seed
        self._probability = row_weights(train.labels, config.sampling)
        chosen = choose(located.sets, located.r, sae.center.device)
        self.part = Part(sae, chosen, unit_of(sae, train, config))
        self._optimiser = torch.optim.AdamW(
            self.part.parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        steps = max(config.epochs * math.ceil(len(train.labels) / config.batch), 3)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            config.learning_rate,
            total_steps=steps,
            pct_start=max(config.warm_up, 2 / steps),  # torch divides by pct_start x steps - 1
        )
        self.epochs: list[Epoch] = []
        self.best = 0
        self._kept = self.part.weights()

    @property
    def finished(self) -> bool:
        """Whether all epochs are over, or patience is."""
        done, config = len(self.epochs), self._config
        return done >= config.epochs or done - self.best >= config.patience

    def run(self) -> Iterator[Epoch]:
        """Trains until it is finished, and yields each epoch.

        Raises:
            TrainingError: the loss is not a number.
        """
        while not self.finished:
            epoch = Epoch(self._trained(), self._held_out())
            self.epochs.append(epoch)
            if not self.best or epoch.validation["loss"] < self._best_loss:
                self.best, self._kept = len(self.epochs), self.part.weights()
            yield epoch

    def result(self) -> Aligned:
        """The coder of the best epoch so far."""
        trained = self.part.chosen.latents.cpu().numpy()
        return Aligned(self.part.put_into(self._sae, self._kept), trained, self.epochs, self.best)

    def save(self, path: Path) -> None:
        """Writes all that `load` needs into one file."""
        state = {
            "weights": self.part.weights(),
            "kept": self._kept,
            "best": self.best,
            "epochs": [tuple(epoch) for epoch in self.epochs],
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        with finished_file(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Takes up what `save` left, of an alignment that was begun alike."""
        # To the CPU: there AdamW counts its steps, and what belongs elsewhere is moved below.
        state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for parameter, value in zip(self.part.parameters, state["weights"], strict=True):
                parameter.copy_(value)
        device = self._sae.center.device
        self._kept, self.best = [one.to(device) for one in state["kept"]], state["best"]
        self.epochs = [Epoch(*epoch) for epoch in state["epochs"]]
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])

    @property
    def _best_loss(self) -> float:
        return self.epochs[self.best - 1].validation["loss"]

    def _trained(self) -> dict[str, float]:
        """One epoch of steps; its draws depend on its number alone."""
        seed = self._seed.child(f"align/epoch/{len(self.epochs)}")
        pairs, n = seed.child("pairs").numpy(), len(self._probability)
        drawn = seed.child("rows").numpy().choice(n, size=n, p=self._probability)
        total = _Mean()
        for start in range(0, n, self._config.batch):
            which = drawn[start : start + self._config.batch]
            x = self._train.rows.gather(self._train.layer, which)
            found, loss = _loss(self.part, x, self._train.labels.vector[which], self._config, pairs)
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
            self._schedule.step()
            self.part.keep_lengths()
            total.add(found, len(which))
        return total.mean()

    @torch.no_grad()
    def _held_out(self) -> dict[str, float]:
        """The losses on rows that are not trained on, with the same pairs every time."""
        total, pairs = _Mean(), self._seed.child("align/held-out").numpy()
        data = self._validation
        for which, x in batches(self._sae, data, self._config.batch):
            found, _ = _loss(self.part, x, data.labels.vector[which], self._config, pairs)
            total.add(found, len(which))
        return total.mean()


def align(
    sae: Sae,
    located: Located,
    train: Data,
    validation: Data,
    config: AlignConfig,
    seed: Seed,
    told: Callable[[int, Epoch], None] = lambda *_: None,
) -> Aligned:
    """A whole alignment; a copy of the coder where no latent is above the threshold.

    Args:
        told: hears of each epoch, counted from 1; the other arguments are those of `Alignment`.

    Raises:
        DataError: there are no rows to train or to stop on.
        TrainingError: the loss is not a number.
        CoderError: the coder is of another width than the rows.
    """
    _require_rows(train, validation)
    if not located.sets.found:
        return Aligned(copy.deepcopy(sae), np.zeros(0, np.int64), [], 0)
    alignment = Alignment(sae, located, train, validation, config, seed)
    for number, epoch in enumerate(alignment.run(), 1):
        told(number, epoch)
    return alignment.result()


def _require_rows(train: Data, validation: Data) -> None:
    for data, what in ((train, "training"), (validation, "validation")):
        if not len(data.labels):
            raise DataError(
                f"An alignment needs {what} rows, but there are none. Change `data.fractions`."
            )


def unit_of(sae: Sae, data: Data, config: AlignConfig) -> float:
    """The length that the loss counts in: 1, or the rows' root mean square about the centre."""
    if not config.unit_scale:
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
    pairs = [(_sent(i, x.device), _sent(j, x.device)) for i, j in drawn]
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


def _sent(which: Int[np.ndarray, " _"], device: torch.device) -> Int[Tensor, " _"]:
    return torch.from_numpy(which).to(device, non_blocking=True)


class _Mean:
    """Means of named losses, weighted by rows."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._rows = 0

    def add(self, found: dict[str, Tensor], rows: int) -> None:
        values = torch.stack([*found.values()]).tolist()  # a GPU is waited for once
        for name, value in zip(found, values, strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + rows * value
        self._rows += rows

    def mean(self) -> dict[str, float]:
        return {name: value / self._rows for name, value in self._sums.items()}
