"""What a blend adds to a decode step, and what reading its matrices alone would take.

A decode step reads every weight once for all its rows, so its bound is bytes over bandwidth, and so
is the blend's: the encoder for `topk` (its k decoder rows a row are nothing), encoder and decoder for
`relu`. Two figures beside it, each over that bound:

- in the step: steps with the blend less steps without, in turn; where launching kernels takes
  longer than running them, this may be less than the bound, or more
- alone: the edit by itself on the hidden states of one step
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from gpu_models import Made, make
from torch import Tensor

from trimtab.edits.arms import Arm, Coder, Materials
from trimtab.edits.change import change_of, reconstruction
from trimtab.edits.steering import steer
from trimtab.evaluation.growing_cache import grow_in_place
from trimtab.models.registry import Shape
from trimtab.sae.coder import CoderConfig, Kind, Sae

ROWS, PAST, STEPS, ROUNDS = 32, 128, 32, 5
LATENTS_PER_WIDTH = 16
ACTIVE = 100
"""Latents of a row, as the study's coders have them."""
KINDS: tuple[Kind, ...] = ("relu", "topk")
READ_BYTES = 2**30


@torch.inference_mode()
def blended(device: torch.device, shape: Shape) -> dict[str, Any]:
    """Both kinds of coder on one model, a step and the edit alone."""
    made = make(shape, "bf16", device)
    rate = read_rate(device, READ_BYTES if device.type == "cuda" else 2**24)
    coders = {kind: random_coder(kind, shape.d_model, device) for kind in KINDS}
    layer = shape.num_layers // 2
    arms = {
        kind: Arm(name=kind, kind="blend", layer=layer, alpha=0.1, coder=kind) for kind in KINDS
    }
    arms["plain"] = Arm(name="plain")
    materials = Materials({kind: Coder(sae) for kind, sae in coders.items()})
    tokens = torch.randint(1, shape.vocabulary, (ROWS, PAST), device=device)
    steps: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            steps[name].append(step_seconds(made, tokens, arm, materials))
    plain = statistics.median(steps["plain"][1:])
    hidden = torch.randn(ROWS, 1, shape.d_model, device=device, dtype=torch.bfloat16)
    found = {}
    for kind, sae in coders.items():
        added = statistics.median(steps[kind][1:]) - plain
        alone = edit_seconds(hidden, sae, arms[kind])
        found[kind] = over_bounds(made, sae, rate, plain, added, alone)
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
    made: Made, sae: Sae, rate: float, plain: float, added: float, alone: float
) -> dict[str, float]:
    """What the edit takes, in the step and alone, over what reading its bytes takes."""
    weights = made.model.named_parameters()
    read = sum(weight.nbytes for name, weight in weights if "embed_tokens" not in name)
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
    with device:
        sae = Sae(CoderConfig(kind=kind, width=width, k=min(ACTIVE, width)), d_model)
        sae = sae.to(torch.bfloat16).requires_grad_(False)
    for weight in (sae.W_enc, sae.W_dec):
        weight.normal_().mul_(d_model**-0.5)
    return sae


def step_seconds(made: Made, tokens: Tensor, arm: Arm, materials: Materials) -> float:
    """Seconds of one decode step, every row with the same arm."""
    model = cast(Any, made.model)
    with steer(made.model, [arm] * len(tokens), materials):
        cache = model(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values
        grow_in_place(cache)

        def run() -> None:
            for _ in range(STEPS):
                model(input_ids=tokens[:, :1], past_key_values=cache, use_cache=True)

        return clocked(run, tokens.device) / STEPS


def edit_seconds(hidden: Tensor, sae: Sae, arm: Arm) -> float:
    """Seconds of the edit by itself."""

    def run() -> None:
        for _ in range(STEPS):
            change = change_of(arm, hidden, lambda _: reconstruction(sae, hidden), None)
            hidden.add(arm.alpha * change)

    clocked(run, hidden.device)
    return statistics.median(clocked(run, hidden.device) for _ in range(ROUNDS)) / STEPS


def read_rate(device: torch.device, size: int) -> float:
    """Bytes a second of reading: a matrix times a vector, as a decode step does."""
    matrix = torch.randn(size // 8192, 4096, device=device, dtype=torch.bfloat16)
    vector = torch.randn(4096, 8, device=device, dtype=torch.bfloat16)

    def run() -> None:
        for _ in range(10):
            torch.mm(matrix, vector)

    clocked(run, device)
    return 10 * matrix.nbytes / statistics.median(clocked(run, device) for _ in range(ROUNDS))


def clocked(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
