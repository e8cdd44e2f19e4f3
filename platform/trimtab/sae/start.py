"""Where training starts: the centre, the scale, the weights.

The centre is the mean of all training rows, the scale the root of their mean variance, both from
one pass over the memory-mapped rows in float64. Weights are Kaiming-uniform with zero biases, and
decoder rows have length 1. A tied start (the encoder equals the decoder) is what most trainers of
top-k coders use, since it leaves fewer latents dead; the study's start is not tied.

Cost: reads each layer's rows once, in chunks of `CHUNK_ROWS`.

He et al. 2015, arXiv 1502.01852 (the uniform start: bound sqrt(6 / fan-in)); Gao et al. 2024,
arXiv 2406.04093, section 3 (the tied start).
"""

import copy
import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.core.errors import CoderError, TrainingError
from trimtab.core.seeds import Seed
from trimtab.sae.coder import Sae
from trimtab.sae.config import TrainConfig

CHUNK_ROWS: Final = 8192
START_THRESHOLD: Final = 0.1
"""Where the thresholds of a jumprelu coder start, in units of the pre-activation."""


class Moments(NamedTuple):
    """Mean and spread of a layer's rows."""

    mean: Float[Tensor, " d_model"]
    """The mean row, float64."""
    variance: float
    """Variance of an element about its own mean, averaged over the elements."""


def moments(chunks: Iterable[Float[Tensor, "_ d_model"]], layer: int) -> Moments:
    """The moments of all rows, merged chunk by chunk in float64.

    Raises:
        TrainingError: there is no row, or a value is not finite.
    """
    count, mean, scatter = 0, torch.zeros(0, dtype=torch.float64), 0.0
    for chunk in chunks:
        x = chunk.double()
        here = x.mean(0)
        inside = float((x - here).square().sum())
        gap = here - mean if count else torch.zeros_like(here)
        total = count + len(x)
        scatter += inside + float(gap.square().sum()) * count * len(x) / total
        mean = mean + gap * (len(x) / total) if count else here
        count = total
    if not count:
        raise TrainingError(f"Training needs rows, but layer {layer} has none.")
    if not math.isfinite(scatter):
        raise TrainingError(
            f"Activations must be finite, but layer {layer} has NaN or infinite ones among its "
            f"{count} training rows. Extract the store again, in bfloat16 or float32."
        )
    return Moments(mean, scatter / (count * len(mean)))


def scale_of(variance: float) -> float:
    """What activations of this variance are divided by; 1 where they do not vary."""
    return math.sqrt(variance) or 1.0


def fresh(config: TrainConfig, d_model: int, seed: Seed) -> Sae:
    """A coder at its start, for inputs that are centred and scaled already."""
    generator = torch.Generator().manual_seed(seed.value)
    sae = Sae(config.coder, d_model)
    nn.init.kaiming_uniform_(sae.W_dec, nonlinearity="relu", generator=generator)
    unit_rows(sae.W_dec)
    if config.tied_start:
        sae.W_enc.data.copy_(sae.W_dec.data)
    else:
        nn.init.kaiming_uniform_(sae.W_enc, nonlinearity="relu", generator=generator)
    if config.coder.kind == "jumprelu":
        sae.threshold.fill_(START_THRESHOLD)
    return sae


def given(start: Sae, config: TrainConfig, scale: float) -> Sae:
    """A copy of a coder for raw activations, turned into one for inputs divided by the scale.

    Raises:
        CoderError: it is of another kind, width or k than the configuration's.
    """
    if start.config != config.coder:
        raise CoderError(
            f"The coder to start from must be a {config.coder!r}, but is a {start.config!r}. "
            "Configure the coder as it is."
        )
    sae = copy.deepcopy(start).float()
    for tensor in (sae.b_enc.data, sae.b_dec.data, sae.threshold):
        tensor.div_(scale)
    return sae.requires_grad_(True)


@torch.no_grad()
def unit_rows(W: Float[Tensor, "width d_model"]) -> None:
    """Gives every row length 1, in place."""
    W.div_(torch.linalg.vector_norm(W, dim=1, keepdim=True).clamp_min_(1e-12))
