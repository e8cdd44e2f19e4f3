"""Which latents are active in a top-k coder, found without searching all of a batch's numbers.

    of a row     The k largest lie in the k groups with the largest maxima. Two small searches,
                 among the groups' maxima and among the members of k groups, find what one search
                 of the row would: for 16,384 latents and k = 32, among 512 and 1,024 numbers.
    of a batch   A sample says where the n k largest begin, with room; only what lies above takes
                 part in the search. Where the sample was wrong, all do.

Both are exact: what is skipped cannot be among the largest.
"""

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.sae.sparse import Entries, fixed_entries

STRIDE: Final = 61
"""Every so many numbers one is sampled; a prime, so that the sample visits rows and latents alike."""
ROOM: Final = 2
"""The sample's bound is set so that about this many times n k numbers lie above it."""


def largest(pre: Float[Tensor, "n width"], k: int) -> Int[Tensor, "n k"]:
    """The latents of each row's k largest pre-activations, in no order."""
    n, width = pre.shape
    group = _group_size(width, k)
    if group == 1:
        return pre.topk(k, dim=1, sorted=False).indices
    stride = width // group
    groups = pre.view(n, group, stride).amax(1).topk(k, dim=1, sorted=False).indices
    members = torch.arange(0, width, stride, device=pre.device)
    candidates = (groups.unsqueeze(1) + members.view(1, group, 1)).view(n, -1)
    found = pre.gather(1, candidates).topk(k, dim=1, sorted=False).indices
    return candidates.gather(1, found)


def largest_of_batch(pre: Float[Tensor, "n width"], k: int) -> Entries:
    """The entries of the n k largest pre-activations of a batch."""
    n, width = pre.shape
    flat = pre.reshape(-1)
    candidates = _above(flat, n * k)
    values = flat if candidates is None else flat[candidates]
    found = values.topk(n * k, sorted=False).indices.sort().values
    if candidates is not None:
        found = candidates[found]
    rows = found // width
    starts = torch.searchsorted(rows, torch.arange(n, device=pre.device))
    return Entries(rows, found - rows * width, starts)


def entries_of(pre: Float[Tensor, "n width"], k: int, *, batch_wide: bool) -> Entries:
    """The active entries: k of each row, or n k of the batch."""
    return largest_of_batch(pre, k) if batch_wide else fixed_entries(largest(pre, k))


def _group_size(width: int, k: int) -> int:
    """A power of two that divides the width, at most sqrt(2 width / k): k groups or more."""
    group = 1
    while width % (2 * group) == 0 and (2 * group) ** 2 * k <= 2 * width:
        group *= 2
    return group


def _above(flat: Tensor, num: int) -> Tensor | None:
    """Positions that hold the `num` largest numbers; None where a sample does not tell."""
    sample = flat[::STRIDE]
    rank = ROOM * num // STRIDE
    if rank < 1 or rank >= len(sample):
        return None
    bound = sample.topk(rank, sorted=True).values[-1]
    positions = (flat >= bound).nonzero().squeeze(1)
    return positions if len(positions) >= num else None
