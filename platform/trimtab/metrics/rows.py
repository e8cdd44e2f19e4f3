"""What folds share about rows: refusing what is not a number, and keeping rows until the end.

Clustering and the released optimiser need all rows of a layer at once. Their state is the blocks
as they came, so that updating and merging copy nothing; `in_order` joins them once, by index, and
the result does not depend on how the rows arrived.

Memory: n x d_model float32, 267 MB per layer at 16k x 4096, and the same again in `in_order`.
Measures that can do with sums do not use this.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trimtab.core.errors import ActivationError
from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import Labels, Rows


def require_finite(rows: Rows) -> None:
    """Refuses activations that are NaN or infinite.

    Raises:
        ActivationError: names the first scenario; which layer it is, only the caller knows.
    """
    finite = np.isfinite(rows.x)
    if finite.all():
        return
    row, column = np.argwhere(~finite)[0]
    raise ActivationError(
        f"Every activation must be finite, but that of scenario {rows.labels.index[row]} "
        f"holds {rows.x[row, column]} in column {column}. Load the model in bfloat16 or float32 "
        "(float16 overflows on massive activations), or leave this scenario out."
    )


@dataclass(frozen=True, eq=False)
class KeptRows:
    """Rows of one layer in float32, in blocks, in the order of arrival."""

    blocks: tuple[Rows, ...] = ()
    """None of them empty."""

    def __len__(self) -> int:
        return sum(len(block.labels) for block in self.blocks)

    @property
    def width(self) -> int:
        """d_model; 0 while there are no rows."""
        return self.blocks[0].x.shape[1] if self.blocks else 0

    def in_order(self) -> Rows:
        """All rows, sorted by their index."""
        if not self.blocks:
            return _no_rows()
        labels = Labels.concatenate([block.labels for block in self.blocks])
        order = np.argsort(labels.index, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        x = np.empty((len(self), self.width), np.float32)
        starts = np.cumsum([0, *(len(block.labels) for block in self.blocks)])
        for block, (start, stop) in zip(self.blocks, pairwise(starts), strict=True):
            x[place[start:stop]] = block.x
        return Rows(x, labels.take(order))


class KeepsRows:
    """The part of a fold that keeps rows; a subclass adds `finish`."""

    def zero(self) -> KeptRows:
        """No rows."""
        return KeptRows()

    def update(self, state: KeptRows, rows: Rows) -> KeptRows:
        """Keeps a float32 copy of the rows.

        Raises:
            ActivationError: an activation is NaN or infinite.
        """
        require_finite(rows)
        if not len(rows.labels):
            return state
        return KeptRows((*state.blocks, Rows(rows.x.astype(np.float32), rows.labels)))

    def merge(self, a: KeptRows, b: KeptRows) -> KeptRows:
        """The rows of both."""
        return KeptRows(a.blocks + b.blocks)


def _no_rows() -> Rows:
    none = np.zeros(0, np.int64)
    labels = Labels(
        index=none,
        vector=np.zeros((0, NUM_POLES)),
        typicality=np.zeros(0),
        foundation=none,
        pole=none,
        polarity=none,
        split=none,
    )
    return Rows(np.zeros((0, 0), np.float32), labels)
