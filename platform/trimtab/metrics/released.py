"""The dimensional readout as the paper's code trains it: `as_released`, to see what it changes.

Linear(d_model, 10) by AdamW on the mean squared error, learning rate 1e-3, weight decay 1e-4,
batches of 512, at most 100 epochs, patience 10 on validation, halving on a plateau of 5. Rows are
split 70/10/20 anew, whatever their split, and the *last* weights are scored: the released code
keeps the best ones by a shallow copy, that is, not at all. Raw activations, so one massive
dimension can throw R2 to -50,000; the corrected readout is `dimensional`.

Random draws (split, start, order of batches) come from named seeds below `seed`: the same recipe,
not the same numbers as torch's generator. Fewer than 10 rows have no split and no readout.

Memory: keeps all rows (see `rows`) and copies them once into splits. Time: 40 n d_model operations
an epoch; 13 s for 16,315 rows of 4,096 on two cores.

Li, Teng and Wang 2026, arXiv 2603.15615; docs: METHODS 1.4, point 4.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

from trimtab.core.poles import NUM_POLES
from trimtab.core.seeds import Seed
from trimtab.metrics.dimensional import Readout, r2, unfitted
from trimtab.metrics.optimiser import AdamW, Plateau
from trimtab.metrics.rows import KeepsRows, KeptRows

LEARNING_RATE: Final = 1e-3
BATCH: Final = 512
MAX_EPOCHS: Final = 100
STOP_AFTER: Final = 10
"""Epochs without a better validation loss."""
MIN_ROWS: Final = 10
"""Fewest rows with a validation row among them."""


class Pairs(NamedTuple):
    """Activations and the moral vectors to read off them, in one dtype."""

    x: Float[np.ndarray, "n d_model"]
    """Raw activations."""
    y: Float[np.ndarray, "n 10"]
    """Moral vectors."""


@dataclass(frozen=True)
class ReleasedReadout(KeepsRows):
    """Folds rows into the readout that the released recipe gives."""

    seed: int = 42
    """Where split, start and batches are drawn from."""

    def finish(self, state: KeptRows) -> Readout:
        """Splits, trains, scores the last weights on the test rows."""
        if len(state) < MIN_ROWS:
            return unfitted(state.width, len(state))
        x, labels = state.in_order()
        y = labels.vector.astype(np.float32)
        seed = Seed(self.seed)
        order = seed.child("split").numpy().permutation(len(x))
        parts = np.split(order, [int(0.7 * len(x)), int(0.7 * len(x)) + int(0.1 * len(x))])
        training, validation, test = (Pairs(x[part], y[part]) for part in parts)
        start = initial(state.width, seed.child("start").numpy())
        batches = seed.child("batches").numpy()
        parameters = train(start, training, validation, batches)
        return Readout(
            weights=parameters[:-1],
            intercept=parameters[-1],
            r2_pole=_score(parameters, test),
            rows=len(x),
            ridge=float("nan"),
            penalty=float("nan"),
        )


def initial(d_model: int, draw: np.random.Generator) -> Float[np.ndarray, "{d_model}+1 10"]:
    """Weights, and the bias as last row, uniform within 1/sqrt(d_model) as in torch's Linear."""
    bound = d_model**-0.5
    return draw.uniform(-bound, bound, (d_model + 1, NUM_POLES)).astype(np.float32)


def train(
    start: Float[np.ndarray, "d_model_and_bias 10"],
    training: Pairs,
    validation: Pairs,
    draw: np.random.Generator,
) -> Float[np.ndarray, "d_model_and_bias 10"]:
    """The last parameters, when validation stops improving or the epochs are over.

    Args:
        draw: gives each epoch's order of the training rows.
    """
    state, plateau = AdamW.at(start), Plateau(LEARNING_RATE)
    best, waited = float("inf"), 0
    for _ in range(MAX_EPOCHS):
        order = draw.permutation(len(training.x))
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            gradient = _gradient(state.parameters, training.x[batch], training.y[batch])
            state = state.step(gradient, plateau.learning_rate)
        loss = float(np.mean(_residual(state.parameters, *validation) ** 2))
        plateau = plateau.after(loss)
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == STOP_AFTER:
            break
    return state.parameters


def _residual(
    parameters: Float[np.ndarray, "d_model_and_bias 10"],
    x: Float[np.ndarray, "n d_model"],
    y: Float[np.ndarray, "n 10"],
) -> Float[np.ndarray, "n 10"]:
    return x @ parameters[:-1] + parameters[-1] - y


def _gradient(
    parameters: Float[np.ndarray, "d_model_and_bias 10"],
    x: Float[np.ndarray, "n d_model"],
    y: Float[np.ndarray, "n 10"],
) -> Float[np.ndarray, "d_model_and_bias 10"]:
    """Of the squared error's mean over rows and outputs."""
    slope = _residual(parameters, x, y) * (2 / y.size)
    return np.vstack([x.T @ slope, slope.sum(axis=0)])


def _score(
    parameters: Float[np.ndarray, "d_model_and_bias 10"], test: Pairs
) -> Float[np.ndarray, "10"]:
    residual = _residual(parameters, *test).astype(np.float64)
    scatter = test.y.astype(np.float64)
    scatter = scatter - scatter.mean(axis=0)
    return r2((residual**2).sum(axis=0), (scatter**2).sum(axis=0))
