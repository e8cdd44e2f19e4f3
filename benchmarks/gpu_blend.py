"""What a blend adds to a decode step, and what reading its matrices alone would take.

A decode step reads every weight and the past once for all its rows, so its bound is bytes over
bandwidth, and so is the blend's: encoder and decoder for `relu`; for `topk` the encoder, and k
decoder rows of each row, which are 5 % of it at 32 rows. Two figures beside it, each over that bound:

- in the step: what a step with the blend takes more than one without, its share of the step over
  the share of the bytes; where launching kernels takes longer than running them, this may be less
  than the bound, or more
- alone: the edit by itself on the hidden states of one step

Steps with and without are timed in turn, from the same past each time; what is reported is the
median over rounds of a round's own difference, since a machine may grow slower while it is measured.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from gpu_models import Made, make
from torch import Tensor
from transformers import DynamicCache

from trimtab.edits.arms import Arm, Coder, Materials
from trimtab.edits.change import change_of, reconstruction
from trimtab.edits.steering import steer
from trimtab.evaluation.growing_cache import GrowingLayer
from trimtab.models.readout import contiguous_head
from trimtab.models.registry import Shape
from trimtab.sae.coder import CoderConfig, Kind, Sae

ROWS, PAST, STEPS, ROUNDS, WARM_UP = 32, 128, 16, 6, 1
LATENTS_PER_WIDTH = 16
ACTIVE = 100
"""Latents of a row, as the study's coders have them."""
KINDS: tuple[Kind, ...] = ("relu", "topk")


@torch.inference_mode()
def blended(device: torch.device, shape: Shape) -> dict[str, Any]:
    """Both kinds of coder on one model, a step and the edit alone."""
    made = make(shape, "bf16", device)
    coders = {kind: random_coder(kind, shape.d_model, device) for kind in KINDS}
    rate = read_rate(coders["relu"].W_enc)
    layer = shape.num_layers // 2
    arms = {
        kind: Arm(name=kind, kind="blend", layer=layer, alpha=0.1, coder=kind) for kind in KINDS
    }
    arms["plain"] = Arm(name="plain")
    materials = Materials({kind: Coder(sae) for kind, sae in coders.items()})
    past = prefilled(made, torch.randint(1, shape.vocabulary, (ROWS, PAST), device=device))
    steps: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            steps[name].append(step_seconds(made, past, arm, materials))
    plain = statistics.median(steps["plain"][WARM_UP:])
    hidden = torch.randn(ROWS, 1, shape.d_model, device=device, dtype=torch.bfloat16)
    weights = made.model.named_parameters()
    read = sum(weight.nbytes for name, weight in weights if "embed_tokens" not in name)
    read += sum(part.nbytes for layer in past for part in layer)
    found = {}
    for kind, sae in coders.items():
        turns = zip(steps[kind][WARM_UP:], steps["plain"][WARM_UP:], strict=True)
        added = statistics.median(edited - without for edited, without in turns)
        alone = edit_seconds(hidden, sae, arms[kind])
        found[kind] = over_bounds(sae, read, rate, plain, added, alone)
    return {
        "rows": ROWS,
        "past": PAST,
        "steps": STEPS,
        "latents": LATENTS_PER_WIDTH * shape.d_model,
        "plain_seconds": plain,
        "bytes_per_second": rate,
        "kinds": found,
        "rounds": steps,
    }


def over_bounds(
    sae: Sae, read: int, rate: float, plain: float, added: float, alone: float
) -> dict[str, float]:
    """What the edit takes, in the step and alone, over what reading its bytes takes."""
    rows = sae.width if sae.config.kind == "relu" else min(sae.width, ROWS * ACTIVE)
    size = sae.W_enc.nbytes + rows * sae.W_dec[0].nbytes
    return {
        "bytes": size,
        "added_seconds": added,
        "overhead": added / plain,
        "share_of_bytes": size / read,
        "over_share": (added / plain) / (size / read),
        "alone_seconds": alone,
        "bound_seconds": size / rate,
        "over_bound": alone / (size / rate),
    }


def random_coder(kind: Kind, d_model: int, device: torch.device) -> Sae:
    width = LATENTS_PER_WIDTH * d_model
    with torch.device("meta"):
        sae = Sae(CoderConfig(kind=kind, width=width, k=min(ACTIVE, width)), d_model)
    sae = sae.to(torch.bfloat16).to_empty(device=device).requires_grad_(False)
    for part in (sae.b_enc, sae.b_dec, sae.center, sae.threshold):
        part.zero_()
    for weight in (sae.W_enc, sae.W_dec):
        weight.normal_().mul_(d_model**-0.5)
    return sae


def prefilled(made: Made, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer after these tokens."""
    model = cast(Any, made.model)
    with contiguous_head(model):
        cache = model(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def step_seconds(
    made: Made, past: list[tuple[Tensor, Tensor]], arm: Arm, materials: Materials
) -> float:
    """Seconds of one decode step, every row with the same arm."""
    model, device = cast(Any, made.model), past[0][0].device
    cache = DynamicCache()
    cache.layers.extend(GrowingLayer(keys, values) for keys, values in past)
    tokens = torch.ones(ROWS, 1, dtype=torch.int64, device=device)
    with steer(made.model, [arm] * ROWS, materials):

        def run() -> None:
            for _ in range(STEPS):
                model(input_ids=tokens, past_key_values=cache, use_cache=True)

        return clocked(run, device) / STEPS


def edit_seconds(hidden: Tensor, sae: Sae, arm: Arm) -> float:
    """Seconds of the edit by itself."""

    def run() -> None:
        for _ in range(STEPS):
            change = change_of(arm, hidden, lambda _: reconstruction(sae, hidden), None)
            hidden.add(arm.alpha * change)

    clocked(run, hidden.device)
    return statistics.median(clocked(run, hidden.device) for _ in range(ROUNDS)) / STEPS


def read_rate(matrix: Tensor) -> float:
    """Bytes a second of reading: a matrix times a few columns, as a decode step does."""
    columns = torch.randn(matrix.shape[1], 8, device=matrix.device, dtype=matrix.dtype)

    def run() -> None:
        for _ in range(10):
            torch.mm(matrix, columns)

    clocked(run, matrix.device)
    seconds = statistics.median(clocked(run, matrix.device) for _ in range(ROUNDS))
    return 10 * matrix.nbytes / seconds


def clocked(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
