"""Training on a GPU that is not there: the numbers of the CPU, dead latents revived on the way."""

import math
from typing import Any
from unittest import mock

import pytest
import torch
from pretend_gpus import pretend_gpus

from trimtab.core.seeds import Seed
from trimtab.sae.coder import CoderConfig, Kind
from trimtab.sae.config import TrainConfig
from trimtab.sae.rows import LayerRows, from_tensors
from trimtab.sae.training import Progress, Trainer

D, WIDTH = 16, 128


def trained(kind: Kind, device: torch.device) -> list[Progress]:
    x = torch.randn(256, D, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(
        coder=CoderConfig(kind=kind, width=WIDTH, k=4),
        epochs=3.0,
        batch_size=32,
        learning_rate=1e-2,
        report_steps=8,
        dead_after_rows=64,
    )
    rows, held_out = from_tensors({0: x}), from_tensors({0: x[:64]})
    return list(Trainer(rows, held_out, config, Seed(0), device).run())


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_a_training_on_a_gpu_is_that_of_the_cpu(kind: Kind) -> None:
    expected = trained(kind, torch.device("cpu"))
    with torch.no_grad(), pretend_gpus():
        found = trained(kind, torch.device("cuda", 0))
    assert [one.step for one in found] == [one.step for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for name, value in theirs.metrics[0].items():
            if name != "train/rows_per_second":
                assert math.isclose(ours.metrics[0][name], value, rel_tol=1e-4, abs_tol=1e-6), name


@pytest.mark.parametrize(("device", "pinned"), [("cpu", {False}), ("cuda:0", {True})])
def test_batches_wait_for_a_gpu_in_memory_that_it_copies_from_by_itself(
    device: str, pinned: set[bool]
) -> None:
    asked: set[bool] = set()
    gather = LayerRows.gather

    def noted(rows: LayerRows, *args: Any, pinned: bool = False) -> torch.Tensor:  # noqa: ANN401
        if len(args[1]) == 32:  # not the rows of the centre, nor those held out
            asked.add(pinned)
        return gather(rows, *args, pinned=pinned)

    with torch.no_grad(), pretend_gpus(), mock.patch.object(LayerRows, "gather", noted):
        trained("topk", torch.device(device))
    assert asked == pinned
