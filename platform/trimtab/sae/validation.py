"""What a report says of a coder on rows that it was not trained on.

Error, share of variance unexplained, active latents and the share of latents that stay silent, on
a fixed sample of the validation rows: enough to stop, to compare and to prune a sweep's trials.
The full quality of a finished coder is `trimtab.sae.evaluate`.

Cost: one forward pass over at most `validation_rows` rows, `CHUNK_ROWS` at a time.
"""

from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.sae.coder import Sae
from trimtab.sae.rows import LayerRows
from trimtab.sae.sparse import decode, fixed_entries

CHUNK_ROWS: Final = 2048


class Measured(NamedTuple):
    """A coder on a sample of validation rows."""

    mse: float
    """Mean squared error over rows and elements, in the activations' own units."""
    fvu: float
    """Fraction of variance unexplained: squared error over squared distance from the mean row."""
    l0: float
    """Active latents of a row, on average."""
    dead: float
    """Share of latents that are active on none of the rows."""


@torch.no_grad()
def measured(sae: Sae, rows: LayerRows, layer: int, which: Int[np.ndarray, " sample"]) -> Measured:
    """A coder on the rows of these numbers; at least one."""
    fired = torch.zeros(sae.width, dtype=torch.float64, device=sae.center.device)
    total = torch.zeros(2 + sae.d_model, dtype=torch.float64, device=sae.center.device)
    for begin in range(0, len(which), CHUNK_ROWS):
        x = rows.gather(layer, which[begin : begin + CHUNK_ROWS]).to(sae.center.device)
        found, counts = _forward(sae, x)
        fired += counts
        centred = (x - sae.center).double()
        total[0] += (found - x).double().square().sum()
        total[1] += centred.square().sum()
        total[2:] += centred.sum(0)
    n = len(which)
    error, square = total[:2].tolist()
    spread = square - float(total[2:].square().sum()) / n
    return Measured(
        mse=error / (n * sae.d_model),
        fvu=error / spread if spread > 0 else float("nan"),
        l0=float(fired.sum()) / n,
        dead=float((fired == 0).double().mean()),
    )


def _forward(
    sae: Sae, x: Float[Tensor, "n d_model"]
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " width"]]:
    """The reconstruction, and on how many rows each latent was active."""
    if sae.config.kind != "topk":
        z = sae.encode(x)
        return sae.decode(z), (z > 0).sum(0).double()
    values, latents = sae.active(x)
    found = decode(values.reshape(-1), fixed_entries(latents), sae.W_dec)
    counts = torch.bincount(latents[values > 0], minlength=sae.width)
    return found + (sae.b_dec + sae.center), counts.double()
