"""How good is a sparse autoencoder on rows it was not trained on? One pass, sums only.

For rows x with reconstructions x' and latents z, under SAEBench's names:

    mse                 mean over rows and dimensions of (x - x')^2          (METHODS 1.5)
    fvu                 sum |x - x'|^2 / sum |x - mean of the rows|^2
    explained_variance  1 - fvu
    cossim, l2_ratio    mean over rows of cos(x, x') and of |x'| / |x|
    relative_reconstruction_bias  mean |x'|^2 / mean x.x', 1 where x' is not shrunk
    l0, l1              mean over rows of the number and the sum of active latents
    frac_alive, dead    share of latents that were active on some row, and on none
    freq_over_*         share of latents that were active on more than 1 % or 10 % of the rows

SAEBench takes its variance within each batch of tokens and averages the batches' ratios, and its
mse has the rows in the denominator twice. Here both are over all rows, so that they do not depend
on the batch. Its cosine is of raw activations, which all share a large mean; fvu is not fooled.

State: a dozen sums in float64, d_model float64 and width int64 (0.6 MB at 4,096 x 65,536). A batch
holds all latents of its rows: 1,024 x 65,536 float32 are 268 MB.

SAEBench 0.6 `core`; Rajamanoharan et al. 2024, arXiv 2404.16014, equation 10 (the bias).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.core.errors import CoderError
from trimtab.core.rows import Rows
from trimtab.sae.coder import Sae
from trimtab.sae.rows import LayerRows

BATCH: Final = 1_024
"""Rows encoded at a time."""
_ROUNDING: Final = 1e-12
"""Relative, of sums in float64."""


class Quality(NamedTuple):
    """What the module's table defines; a field is NaN where it is undefined."""

    mse: float
    explained_variance: float
    fvu: float
    cossim: float
    l2_norm_in: float
    """Mean of |x|."""
    l2_norm_out: float
    """Mean of |x'|."""
    l2_ratio: float
    relative_reconstruction_bias: float
    l0: float
    l1: float
    frac_alive: float
    dead: float
    freq_over_1_percent: float
    freq_over_10_percent: float

    def named(self, prefix: str = "sae/") -> dict[str, float]:
        """The defined ones, as metrics."""
        return {f"{prefix}{k}": v for k, v in self._asdict().items() if np.isfinite(v)}


@dataclass(frozen=True, eq=False)
class QualityState:
    """Sums over the rows seen; `moved` is x less the coder's centre, so that squares stay small."""

    sums: Float[np.ndarray, " sums"]
    """In the order of `_SUMS`."""
    moved: Float[np.ndarray, " d_model"]
    """Sum of the moved rows."""
    fired: Int[np.ndarray, " width"]
    """On how many rows each latent was active."""


_SUMS: Final = (
    *("rows", "squared_error", "squared_moved", "squared_out", "in_dot_out"),
    *("norm_in", "norm_out", "ratio", "cosine", "l1"),
)


class QualityFold:
    """The fold of one layer's coder; see `trimtab.core.fold.Fold`."""

    def __init__(self, sae: Sae) -> None:
        self.sae = sae

    def zero(self) -> QualityState:
        """The state of no rows."""
        return QualityState(
            np.zeros(len(_SUMS)),
            np.zeros(self.sae.d_model),
            np.zeros(self.sae.width, dtype=np.int64),
        )

    def update(self, state: QualityState, rows: Rows) -> QualityState:
        """The state after also seeing `rows`; their labels are not looked at."""
        return self.seen(state, torch.tensor(rows.x))

    @torch.no_grad()
    def seen(self, state: QualityState, x: Float[Tensor, "n d_model"]) -> QualityState:
        """The state after also seeing raw activations, on whichever device they are."""
        latents = self.sae.encode(x := x.to(self.sae.center))
        x, out = x.double(), self.sae.decode(latents).double()
        moved = x - self.sae.center
        norm_in, norm_out, dot = x.norm(dim=1), out.norm(dim=1), (x * out).sum(1)
        sums = {
            "rows": torch.tensor(len(x), device=x.device),
            "squared_error": (x - out).square().sum(),
            "squared_moved": moved.square().sum(),
            "squared_out": out.square().sum(),
            "in_dot_out": dot.sum(),
            "norm_in": norm_in.sum(),
            "norm_out": norm_out.sum(),
            "ratio": _ratio(norm_out, norm_in).sum(),
            "cosine": _ratio(dot, norm_in * norm_out).sum(),
            "l1": latents.sum(dtype=torch.float64),
        }
        seen = QualityState(
            torch.stack([sums[name].double() for name in _SUMS]).cpu().numpy(),
            moved.sum(0).cpu().numpy(),
            (latents > 0).sum(0).cpu().numpy(),
        )
        return self.merge(state, seen)

    def merge(self, a: QualityState, b: QualityState) -> QualityState:
        """The state of the rows of both."""
        return QualityState(
            **{f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(QualityState)}
        )

    def finish(self, state: QualityState) -> Quality:
        """The numbers themselves; all NaN for no rows."""
        total = dict(zip(_SUMS, state.sums, strict=True))
        rows = total["rows"]
        frequency = state.fired / rows if rows else np.full(len(state.fired), np.nan)
        alive = float(np.mean(frequency > 0)) if rows else np.nan
        fvu = _over(total["squared_error"], _variance(state, total))
        return Quality(
            mse=_over(total["squared_error"], rows * len(state.moved)),
            explained_variance=1 - fvu,
            fvu=fvu,
            cossim=_over(total["cosine"], rows),
            l2_norm_in=_over(total["norm_in"], rows),
            l2_norm_out=_over(total["norm_out"], rows),
            l2_ratio=_over(total["ratio"], rows),
            relative_reconstruction_bias=_over(total["squared_out"], total["in_dot_out"]),
            l0=_over(float(state.fired.sum()), rows),
            l1=_over(total["l1"], rows),
            frac_alive=alive,
            dead=1 - alive,
            freq_over_1_percent=_share_over(frequency, 0.01),
            freq_over_10_percent=_share_over(frequency, 0.10),
        )


def quality(sae: Sae, rows: LayerRows, layer: int, batch: int = BATCH) -> Quality:
    """The quality of a layer's coder on rows, on the device that the coder is on.

    Args:
        rows: held-out ones, memory-mapped; `LayerRows.take` picks a split.
        batch: rows encoded at a time; moves no number beyond float32 rounding.

    Raises:
        CoderError: the coder is of another width than the rows.
    """
    check_width(sae, rows.d_model, layer)
    fold = QualityFold(sae)
    state = fold.zero()
    for which in _batches(len(rows), batch):
        state = fold.seen(state, rows.gather(layer, which).to(sae.center.device))
    return fold.finish(state)


def check_width(sae: Sae, d_model: int, layer: int) -> None:
    """Refuses a coder of another width than a layer's activations.

    Raises:
        CoderError: names both.
    """
    if sae.d_model != d_model:
        raise CoderError(
            f"A sparse autoencoder must be as wide as the activations it reads, but it has "
            f"d_model {sae.d_model} and those of layer {layer} have {d_model}. Give the one that "
            "was trained on this model."
        )


def _batches(num_rows: int, batch: int) -> Iterator[Int[np.ndarray, " b"]]:
    return (np.arange(i, min(i + batch, num_rows)) for i in range(0, num_rows, batch))


def _ratio(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Quotients, and 0 for a row of zeros, which has no direction."""
    return torch.where(b > 0, a / b, 0)


def _variance(state: QualityState, total: dict[str, float]) -> float:
    """Sum of squared distances to the rows' mean; 0 where nothing but rounding is left of it."""
    squares = total["squared_moved"]
    left = squares - float(state.moved @ state.moved) / max(total["rows"], 1.0)
    return left if left > _ROUNDING * squares else 0.0


def _over(a: float, b: float) -> float:
    return float(a / b) if b != 0 else float("nan")


def _share_over(frequency: Float[np.ndarray, " width"], least: float) -> float:
    return float(np.mean(frequency > least)) if np.isfinite(frequency).all() else float("nan")
