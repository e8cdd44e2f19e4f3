"""Products with the active latents only.

A batch has e active entries, (row, latent) pairs. Three products are all that a sparse
autoencoder and its gradients need, and each touches e rows of d_model numbers:

    decode    x'_n = sum of the entries of row n:      value * W[latent]
    products  one number an entry:                     x[row] . W[latent]
    collect   G_m  = sum of the entries of latent m:   value * x[row]

`decode` and `collect` are the same operation (a weighted sum of bags of rows) with the entries in
the order of rows and of latents; `collect` writes its [width, d_model] result through a small
buffer, because fresh memory of that size costs more than the sum itself. No sum is made by atomic
additions, so the same entries give the same bits on a GPU too.

Time: e x d_model multiply-adds each, at the speed of memory. What it replaces are four dense
products of rows x width x d_model.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

CHUNK_BYTES = 4 << 20
"""Size of the buffer that `collect` sums into on a CPU: it stays in cache."""


class Entries(NamedTuple):
    """Active entries of n rows, row after row."""

    rows: Int[Tensor, " e"]
    """The row of each."""
    latents: Int[Tensor, " e"]
    """The latent of each."""
    starts: Int[Tensor, " n"]
    """Where each row's entries begin."""


class ByLatent(NamedTuple):
    """The same entries in the order of their latents."""

    order: Int[Tensor, " e"]
    """Positions in the order of rows."""
    rows: Int[Tensor, " e"]
    """The row of each, in the order of latents."""
    starts: Int[Tensor, " width"]
    """Where each latent's entries begin."""


def fixed_entries(latents: Int[Tensor, "n k"]) -> Entries:
    """Entries of rows that have k active latents each."""
    n, k = latents.shape
    starts = torch.arange(0, n * k, k, device=latents.device)
    rows = torch.arange(n, device=latents.device).repeat_interleave(k)
    return Entries(rows, latents.reshape(-1), starts)


def by_latent(entries: Entries, width: int) -> ByLatent:
    """The entries in the order of their latents; within a latent, of their rows."""
    order = entries.latents.argsort(stable=True)
    counts = torch.bincount(entries.latents, minlength=width)
    return ByLatent(order, entries.rows[order], counts.cumsum(0) - counts)


def decode(
    values: Float[Tensor, " e"], entries: Entries, W: Float[Tensor, "width d_model"]
) -> Float[Tensor, "n d_model"]:
    """For each row, the sum over its entries of value times the latent's row of W."""
    return _bags(entries.latents, W, entries.starts, values)


def products(
    x: Float[Tensor, "n d_model"], W: Float[Tensor, "width d_model"], entries: Entries
) -> Float[Tensor, " e"]:
    """For each entry, its row of x times its latent's row of W."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x, W, entries.latents, entries.starts, entries.rows, 0, -1
    )


def sums(values: Float[Tensor, "e c"], entries: ByLatent) -> Float[Tensor, "width c"]:
    """For each latent, the sum of its entries' values, given in the order of rows."""
    return functional.embedding_bag(entries.order, values, entries.starts, mode="sum")


def collect(
    values: Float[Tensor, " e"],
    entries: ByLatent,
    x: Float[Tensor, "n d_model"],
    out: Float[Tensor, "width d_model"],
    *,
    add: bool = False,
) -> None:
    """For each latent, the sum over its entries of value times the entry's row of x.

    Args:
        values: in the order of rows.
        entries: the entries.
        x: one row for each row of the batch.
        out: where the sums are written.
        add: add to what is there instead.
    """
    values = values[entries.order]
    for piece, low, high in _pieces(entries, out):
        starts = entries.starts[piece] - low
        found = _bags(entries.rows[low:high], x, starts, values[low:high])
        out[piece] = found.add_(out[piece]) if add else found


def _pieces(entries: ByLatent, out: Tensor) -> list[tuple[slice, int, int]]:
    """Ranges of latents, each with the range of its entries."""
    width, num = len(out), len(entries.order)
    if out.is_cuda:
        return [(slice(0, width), 0, num)]
    chunk = max(1, CHUNK_BYTES // (out.shape[1] * out.element_size()))
    edges = [*entries.starts[::chunk].tolist(), num]
    pieces = [slice(begin, begin + chunk) for begin in range(0, width, chunk)]
    return list(zip(pieces, edges, edges[1:], strict=False))


def _bags(index: Tensor, table: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    # detached, it keeps none of what only autograd would need
    return functional.embedding_bag(
        index, table.detach(), starts, mode="sum", per_sample_weights=weights
    )
