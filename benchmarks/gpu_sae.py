"""A training step of an autoencoder of the paper's size on a GPU: steps a second, and of what is possible.

Random rows, matrix products in bfloat16, weights and AdamW in float32. Two ways of feeding it:

- on the card: `Trainer.step` on batches that lie there
- from the host: `Trainer.run` over rows in host memory, gathered and copied while it goes on

The bound is the time that the matrix products take at the card's measured rate plus the time that
the rest's bytes take at its measured copy rate; the two follow each other within a step:

- topk: the encoder's product, 2 N d M operations; for each active entry four rows of d float32
- relu: five dense products, 10 N d M operations
- both: AdamW, which reads a weight, its gradient and two moments and writes three of them: 28
  bytes for each of the 2 d M weights
"""

import itertools
import statistics
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trimtab.core.seeds import Seed
from trimtab.sae.coder import CoderConfig, Kind
from trimtab.sae.config import TrainConfig
from trimtab.sae.rows import from_tensors
from trimtab.sae.training import Trainer

ADAM_BYTES = 28
WARM_STEPS = 5
ROUNDS = 3


class CoderSize(NamedTuple):
    """What is trained, and on how much."""

    d_model: int
    width: int
    k: int
    batch: int
    batches: int
    """Batches in host memory; half of them lie on the card too."""


PAPER = CoderSize(4_096, 65_536, 64, 4_096, 8)
TOY = CoderSize(64, 256, 4, 32, 8)


def train_step(kind: Kind, size: CoderSize, device: torch.device, rate: float) -> dict[str, Any]:
    """Steps of one kind.

    Args:
        kind: `topk` or `relu`.
        size: of the coder and of a batch.
        device: where it is trained.
        rate: the measured matrix rate in bfloat16, operations a second.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size.batches * size.batch, size.d_model, generator=generator).bfloat16()
    trainer = make_trainer(kind, size, x, device)
    on_card = [part.to(device) for part in x.split(size.batch)[: size.batches // 2]]
    card = seconds_a_step(trainer, on_card, size.batches, device)
    host = seconds_from_host(trainer, size.batches)
    bandwidth = copy_rate(device, size)
    bound = bound_seconds(kind, size, rate, bandwidth)
    return {
        **size._asdict(),
        "kind": kind,
        "seconds": card,
        "steps_per_second": 1 / card,
        "rows_per_second": size.batch / card,
        "host_steps_per_second": 1 / host,
        "bytes_per_second": bandwidth,
        "bound_seconds": bound,
        "share_of_bound": sum(bound.values()) / card,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def make_trainer(kind: Kind, size: CoderSize, x: Tensor, device: torch.device) -> Trainer:
    config = TrainConfig(
        coder=CoderConfig(kind=kind, width=size.width, k=size.k),
        epochs=1e6,  # the clock ends it
        batch_size=size.batch,
        learning_rate=1e-4,
        precision="bfloat16",
        selection="bfloat16",
        aux_coefficient=0.0,
        report_steps=size.batches,
    )
    return Trainer(from_tensors({0: x}), None, config, Seed(0), device)


def seconds_a_step(
    trainer: Trainer, batches: list[Tensor], steps: int, device: torch.device
) -> float:
    """The median of three rounds, each batch in turn."""
    turns = itertools.cycle(batches)

    def go(count: int) -> float:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(count):
            trainer.step({0: next(turns)})
        synchronise(device)
        return (time.perf_counter() - start) / count

    go(WARM_STEPS)
    return statistics.median(go(steps) for _ in range(ROUNDS))


def seconds_from_host(trainer: Trainer, steps: int) -> float:
    """The median of three reports, which are `steps` apart and wait for the device."""
    reports = trainer.run()
    next(reports)
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        next(reports)
        rounds.append((time.perf_counter() - start) / steps)
    return statistics.median(rounds)


def copy_rate(device: torch.device, size: CoderSize) -> float:
    """Bytes a second read and written by a copy of one of the coder's matrices."""
    source = torch.ones(size.width, size.d_model, device=device)
    target = torch.empty_like(source)

    def copy() -> float:
        synchronise(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        return time.perf_counter() - start

    copy()
    return 2 * source.nbytes / statistics.median(copy() for _ in range(10))


def bound_seconds(kind: Kind, size: CoderSize, rate: float, bandwidth: float) -> dict[str, float]:
    """The least time of a step's parts, which follow each other."""
    weights = size.d_model * size.width
    products = 1 if kind == "topk" else 5
    entries = size.batch * size.k if kind == "topk" else 0
    return {
        "products": products * 2 * size.batch * weights / rate,
        "entries": 4 * entries * size.d_model * 4 / bandwidth,
        "optimiser": ADAM_BYTES * 2 * weights / bandwidth,
    }


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
