"""Which latents are active in a top-k coder, found without sorting whole rows.

The k largest of a row lie in the k groups with the largest maxima, so two small searches (among
the groups' maxima, then among the members of k groups) find what one search of the row would.

Time: one pass over the pre-activations for the maxima; a row of 16,384 is then a search among
512 + 1,024 numbers.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.sae.sparse import Entries, fixed_entries


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
    """The entries of the n k largest pre-activations of the batch."""
    n, width = pre.shape
    flat = pre.reshape(-1).topk(n * k, sorted=False).indices.sort().values
    rows, latents = flat // width, flat % width
    starts = torch.searchsorted(rows, torch.arange(n, device=pre.device))
    return Entries(rows, latents, starts)


def entries_of(pre: Float[Tensor, "n width"], k: int, *, batch_wide: bool) -> Entries:
    """The active entries: k of each row, or n k of the batch."""
    return largest_of_batch(pre, k) if batch_wide else fixed_entries(largest(pre, k))


def _group_size(width: int, k: int) -> int:
    """The power of two near sqrt(width / k) that divides the width and leaves more than k groups."""
    group = 1
    while width % (2 * group) == 0 and (2 * group) ** 2 * k <= 2 * width:
        group *= 2
    return group
