"""AdamW and learning-rate reduction on a plateau, as torch defines them, in numpy.

Only what the released readout needs: this room has no torch, and thirty lines are cheaper to read
than a second tensor library. State in, state out; nothing is changed in place.

Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2; the plateau rule
is torch.optim.lr_scheduler.ReduceLROnPlateau (minimum, relative threshold 1e-4, no cooldown).
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

BETA_1: Final = 0.9
BETA_2: Final = 0.999
EPSILON: Final = 1e-8
WEIGHT_DECAY: Final = 1e-4
FACTOR: Final = 0.5
PATIENCE: Final = 5
THRESHOLD: Final = 1e-4


class AdamW(NamedTuple):
    """Parameters and what the optimiser remembers of their gradients."""

    parameters: Float[np.ndarray, "*shape"]
    """What is being fitted."""
    mean: Float[np.ndarray, "*shape"]
    """Running mean of the gradient."""
    square: Float[np.ndarray, "*shape"]
    """Running mean of its square."""
    steps: int
    """Steps taken."""

    @classmethod
    def at(cls, start: Float[np.ndarray, "*shape"]) -> "AdamW":
        """Before the first step."""
        return cls(start, np.zeros_like(start), np.zeros_like(start), 0)

    def step(self, gradient: Float[np.ndarray, "*shape"], learning_rate: float) -> "AdamW":
        """After one more step."""
        steps = self.steps + 1
        mean = BETA_1 * self.mean + (1 - BETA_1) * gradient
        square = BETA_2 * self.square + (1 - BETA_2) * gradient**2
        scale = np.sqrt(square / (1 - BETA_2**steps)) + EPSILON
        move = mean / (1 - BETA_1**steps) / scale
        decayed = self.parameters * (1 - learning_rate * WEIGHT_DECAY)
        return type(self)(decayed - learning_rate * move, mean, square, steps)


class Plateau(NamedTuple):
    """A learning rate that halves when the loss has not improved for a while."""

    learning_rate: float
    """The current one."""
    best: float = float("inf")
    """Lowest loss that was an improvement."""
    waited: int = 0
    """Epochs since then, or since the last halving."""

    def after(self, loss: float) -> "Plateau":
        """After an epoch with this loss."""
        if loss < self.best * (1 - THRESHOLD):
            return self._replace(best=loss, waited=0)
        if self.waited < PATIENCE:
            return self._replace(waited=self.waited + 1)
        return self._replace(learning_rate=self.learning_rate * FACTOR, waited=0)
