"""What is read of a coder's latents: correlations, active entries and single columns.

Each reads rows in batches through the coder, on whichever device that is, and holds sums or a few
columns, never a row of all latents. `Correlations` is a `trimtab.core.fold.Fold`; the rest are
second passes over what it found. Memory: a batch x width in float64 while it is looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor

from trimtab.core.errors import ActivationError, CoderError
from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import Labels, Rows
from trimtab.locate.moments import LatentMoments, merge, no_moments, observe, pearson
from trimtab.locate.ranks import Entries, ranges, spearman
from trimtab.sae.coder import Sae
from trimtab.sae.rows import LayerRows


class Data(NamedTuple):
    """Rows of one layer with what is known about them."""

    rows: LayerRows
    """Raw activations; row i is `labels` i."""
    layer: int
    """Which of the rows' layers."""
    labels: Labels
    """One for each row."""
    prompt: Int[np.ndarray, " n"]
    """Which prompt each row asks: equal numbers have equal activations."""

    def take(self, which: np.ndarray) -> "Data":
        """The rows that an index array or a boolean mask picks; no activation is read."""
        rows, labels = self.rows.take(which), self.labels.take(which)
        return Data(rows, self.layer, labels, self.prompt[which])

    def of_split(self, split: int) -> "Data":
        """The rows of a split, 0..2 in the order of `SPLITS`."""
        return self.take(np.flatnonzero(self.labels.split == split))


class Correlated(NamedTuple):
    """Pearson's r of every latent."""

    r: Float64[np.ndarray, "width 10"]
    """With the ten dimensions; NaN where either is constant."""
    shuffled: Float64[np.ndarray, "shuffles width 10"]
    """With the labels of each shuffle."""
    active: Int64[np.ndarray, " width"]
    """On how many rows each latent was above 0."""
    rows: int
    """Rows looked at."""


@dataclass(frozen=True, eq=False)
class Correlations:
    """Folds rows into the correlations of all latents, the labels as they are and shuffled."""

    sae: Sae
    """Whose latents."""
    vectors: Float[np.ndarray, "table 10"]
    """Moral vectors of the whole table that the rows' `index` counts in."""
    orders: Int[np.ndarray, "shuffles table"]
    """For each shuffle and row of the table, the row whose vector it gets; may be empty."""

    def zero(self) -> LatentMoments:
        """No rows."""
        return no_moments(self.sae.width, NUM_POLES * (1 + len(self.orders)))

    def update(self, state: LatentMoments, rows: Rows) -> LatentMoments:
        """Adds rows.

        Raises:
            ActivationError: a latent is NaN or infinite.
        """
        if not len(rows.labels):
            return state
        own = rows.labels.index
        sources = np.concatenate([own[None], self.orders[:, own]])
        targets = self.vectors[sources].swapaxes(0, 1).reshape(len(own), -1)
        z = encoded(self.sae, torch.from_numpy(rows.x))
        return merge(state, observe(z, torch.from_numpy(targets).to(z.device)))

    def merge(self, a: LatentMoments, b: LatentMoments) -> LatentMoments:
        """The moments of both."""
        return merge(a, b)

    def finish(self, state: LatentMoments) -> Correlated:
        """The correlations themselves."""
        r = pearson(state).cpu().numpy().reshape(self.sae.width, -1, NUM_POLES).swapaxes(0, 1)
        return Correlated(r[0], r[1:], state.active.cpu().numpy(), state.count)


def correlate(
    sae: Sae, data: Data, batch: int, orders: Int[np.ndarray, "shuffles n"] | None = None
) -> Correlated:
    """One pass over the rows.

    Args:
        orders: for each shuffle and row of `data`, the row of `data` whose labels it gets.

    Raises:
        ActivationError: a latent is NaN or infinite.
        CoderError: the coder is of another width than the rows.
    """
    n = len(data.labels)
    none = np.zeros((0, n), np.int64)
    fold = Correlations(sae, data.labels.vector, none if orders is None else orders)
    state = fold.zero()
    for which, x in batches(sae, data, batch):
        labels = data.labels.take(which)
        here = Labels(**{**vars(labels), "index": which})
        state = fold.update(state, Rows(x.numpy(), here))
    return fold.finish(state)


def rank_correlations(
    sae: Sae, data: Data, active: Int[np.ndarray, " width"], batch: int
) -> Float64[np.ndarray, "width 10"]:
    """Spearman's rho of every latent with the ten dimensions, exact; NaN where r is.

    One pass for every 67 million active entries, which is one pass unless a coder is dense.

    Args:
        active: on how many of these rows each latent is above 0.
    """
    found = np.full((sae.width, NUM_POLES), np.nan)
    for part in ranges(active):
        entries = [
            Entries.of(encoded(sae, x)[:, part].cpu().numpy(), int(which[0]), 0)
            for which, x in batches(sae, data, batch)
        ]
        if entries:
            width = part.stop - part.start
            found[part] = spearman(Entries.concatenate(entries), width, data.labels.vector)
    return found


def columns(
    sae: Sae, data: Data, latents: Int[np.ndarray, " m"], batch: int
) -> Float32[np.ndarray, "n m"]:
    """The activations of some latents on every row."""
    found = np.zeros((len(data.labels), len(latents)), np.float32)
    chosen = torch.from_numpy(latents).to(sae.center.device)
    for which, x in batches(sae, data, batch):
        found[which] = encoded(sae, x)[:, chosen].float().cpu().numpy()
    return found


@torch.no_grad()
def encoded(sae: Sae, x: Float[Tensor, "b d_model"]) -> Float[Tensor, "b width"]:
    """All latents of some rows, on the coder's device.

    Raises:
        ActivationError: a latent is NaN or infinite.
    """
    z = sae.encode(x.to(sae.center))
    if not torch.isfinite(z.sum()):
        raise ActivationError(
            "Every latent must be finite, but this coder gives NaN or infinity on these "
            "activations. Check that it was trained on this model and layer, and that its "
            "training did not diverge."
        )
    return z


def batches(
    sae: Sae, data: Data, batch: int
) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b d_model"]]]:
    """The rows in order, in batches.

    Raises:
        CoderError: the coder is of another width than the rows.
    """
    if sae.d_model != data.rows.d_model:
        raise CoderError(
            f"A coder must be as wide as the activations it reads, but it has d_model "
            f"{sae.d_model} and layer {data.layer} has {data.rows.d_model}. "
            "Give one that was trained on this model."
        )
    for start in range(0, len(data.labels), batch):
        which = np.arange(start, min(start + batch, len(data.labels)))
        yield which, data.rows.gather(data.layer, which)
