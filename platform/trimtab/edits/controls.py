"""Directions to steer along, and the controls that a steering result is held against.

What a blend does has three parts that a control must keep, and one that it must not: its size, the
place it acts at, and the reconstruction error that any coder brings, but not *which* latents were
aligned. Hence:

- the unaligned coder's own blend (an arm, no function): the reconstruction error alone
- random latents: the unaligned coder with as many other latents changed, each by a random vector of
  the very length by which one aligned latent was changed
- noise (an arm, with `random_direction`): the blend's length at every position, one fixed direction

A latent that never fires changes nothing, so random latents are drawn among those that do fire
(`fires`); without that the control is too easy to beat. Draws are named seeds, on the CPU, so that
a control is the same on every machine.

METHODS 1.8; PEERS 6 ("random-vector/neuron controls").
"""

import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.core.errors import CoderError
from trimtab.core.seeds import Seed
from trimtab.sae.coder import Sae


def difference_of_means(
    toward: Float[Tensor, "n d_model"], away: Float[Tensor, "m d_model"]
) -> Float[Tensor, " d_model"]:
    """From the mean of some rows to the mean of others: alpha 1 moves one mean onto the other."""
    return toward.mean(dim=0) - away.mean(dim=0)


def decoder_row(sae: Sae, latent: int) -> Float[Tensor, " d_model"]:
    """A latent's decoder row, which has length 1.

    Raises:
        CoderError: the coder has no such latent.
    """
    if not 0 <= latent < sae.width:
        raise CoderError(
            f"`0 <= latent < width` must hold, but got ({latent=}, width={sae.width})."
        )
    return sae.W_dec.detach()[latent].clone()


@torch.no_grad()
def latent_direction(
    sae: Sae, toward: Float[Tensor, "n d_model"], away: Float[Tensor, "m d_model"]
) -> Float[Tensor, " d_model"]:
    """The decoder row of the one latent in which some rows differ most from others.

    It is as long as they differ in the mean, and points toward the first: alpha 1 adds what these
    have more of that latent.

    Args:
        sae: a coder.
        toward: raw activations.
        away: the others.

    Raises:
        CoderError: no latent tells them apart.
    """
    differs = sae.encode(toward).mean(dim=0) - sae.encode(away).mean(dim=0)
    latent = int(differs.abs().argmax())
    if not differs[latent]:
        raise CoderError(
            f"A direction needs a latent that tells {len(toward)} rows from {len(away)} others, but "
            f"all {sae.width} latents are as active on these as on those."
        )
    return differs[latent] * decoder_row(sae, latent)


def random_direction(like: Float[Tensor, " d_model"], seed: Seed) -> Float[Tensor, " d_model"]:
    """A direction drawn evenly from the sphere, as long as another one."""
    return _random_rows(like.norm()[None], len(like), _generator(seed))[0].to(like)


def random_latents(
    unaligned: Sae, aligned: Sae, seed: Seed, fires: Bool[Tensor, " width"] | None = None
) -> Sae:
    """The unaligned coder with as many random latents changed as alignment changed, as much.

    For each latent that differs between the two coders another one, which does not, has its encoder
    row, bias and decoder row moved by random vectors of the lengths that this one's were moved by.

    Args:
        unaligned: the coder before alignment.
        aligned: the same one after it.
        seed: names the draw.
        fires: latents to draw from; give those that fire on the data at all. None is every one.

    Raises:
        CoderError: the two are not of one shape, or there are too few latents to draw from.
    """
    changed = changed_latents(unaligned, aligned)
    free = torch.ones(unaligned.width, dtype=torch.bool) if fires is None else fires.cpu().clone()
    free[changed] = False
    candidates = free.nonzero()[:, 0]
    if len(candidates) < len(changed):
        raise CoderError(
            f"A control of {len(changed)} changed latents needs as many others that may be changed, "
            f"but only {len(candidates)} of {unaligned.width} are unchanged and fire."
        )
    generator = _generator(seed)
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[: len(changed)]]
    control = copy.deepcopy(unaligned)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec"):
            before, after = (
                getattr(sae, name).detach().cpu().float() for sae in (unaligned, aligned)
            )
            moved = (after - before)[changed].view(len(changed), before[0].numel())
            random = _random_rows(moved.norm(dim=1), moved.shape[1], generator)
            weight: Tensor = getattr(control, name)
            weight[chosen.to(weight.device)] += random.view(-1, *weight.shape[1:]).to(weight)
    return control


def changed_latents(before: Sae, after: Sae) -> Int[Tensor, " changed"]:
    """Latents whose encoder row, bias or decoder row differs, on the CPU.

    Raises:
        CoderError: the two are not of one shape.
    """
    if before.W_enc.shape != after.W_enc.shape:
        raise CoderError(
            "A coder and its aligned copy must have one shape, but got "
            f"{tuple(before.W_enc.shape)} and {tuple(after.W_enc.shape)}."
        )
    differs = (before.W_enc != after.W_enc).any(1) | (before.b_enc != after.b_enc)
    return (differs | (before.W_dec != after.W_dec).any(1)).nonzero()[:, 0].cpu()


def _generator(seed: Seed) -> torch.Generator:
    return torch.Generator().manual_seed(seed.value)


def _random_rows(
    lengths: Float[Tensor, " n"], width: int, generator: torch.Generator
) -> Float[Tensor, "n width"]:
    rows = torch.randn(len(lengths), width, generator=generator)
    return rows / rows.norm(dim=1, keepdim=True) * lengths.cpu()[:, None]
