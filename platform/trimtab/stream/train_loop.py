"""The loop of `trimtab train`: steps are taken, followed, and kept to go on from.

While a training is not finished, its checkpoint folder holds the trainer's state, the curve so far
and the seconds spent:

    checkpoint/    curves.parquet  every report: step, layer, metric, value
                   seconds.json    spent on training, interruptions left out
                   the trainer's own file, which is written last and decides (`trimtab.sae.checkpoint`)

What is trained, where it goes and what it is measured on is the driver's (`trimtab.stream.train`).
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from trimtab.core.files import writable_folder, write_json
from trimtab.core.progress import Report
from trimtab.sae.checkpoint import FILE
from trimtab.sae.training import Trainer
from trimtab.stream.curves import Point, load_curves, points, save_curves

CURVES: Final = "curves.parquet"
SPENT: Final = "seconds.json"


class Ran(NamedTuple):
    """What a training took, over all the calls that it took."""

    curves: list[Point]
    """Every report."""
    seconds: float
    """Spent on training."""


def run_trainer(
    trainer: Trainer,
    checkpoint: Path,
    minutes: float,
    follow: Callable[[Sequence[Point]], None],
    told: "Told",
) -> Ran:
    """Trains to the end, from the checkpoint if there is one.

    Args:
        trainer: at its first step.
        checkpoint: the folder to go on from, and to keep a state in.
        minutes: between two states.
        follow: given the whole curve after each report.
        told: about the epochs.

    Raises:
        TrimtabError: a checkpoint of another training, a loss that is not a number, or what
            `follow` raises.
    """
    curves, seconds = _taken_up(checkpoint, trainer)
    began = saved = time.monotonic()
    told(trainer.epochs_done)
    for progress in trainer.run():
        curves += points(progress.step, progress.metrics)
        follow(curves)
        told(progress.epoch)
        now = time.monotonic()
        if trainer.finished or now - saved >= 60 * minutes:
            _keep(checkpoint, trainer, curves, seconds + now - began)
            saved = now
    told.end()
    return Ran(curves, seconds + time.monotonic() - began)


class Told:
    """Progress in whole epochs; done only when training is, whenever that is."""

    def __init__(self, report: Report, stage: str, epochs: float) -> None:
        """Takes the stage's name and the epochs asked for."""
        self._report, self._stage, self._of = report, stage, math.ceil(epochs)

    def __call__(self, epoch: float) -> None:
        """Says how far it is."""
        self._report(self._stage, min(int(epoch), self._of - 1), self._of)

    def end(self) -> None:
        """Says that it is done."""
        self._report(self._stage, self._of, self._of)


def _keep(folder: Path, trainer: Trainer, curves: Sequence[Point], seconds: float) -> None:
    """Puts the present state in the last one's place; the trainer's own file decides, and is last."""
    save_curves(writable_folder(folder) / CURVES, curves)
    write_json(folder / SPENT, seconds)
    trainer.save(folder)


def _taken_up(folder: Path, trainer: Trainer) -> tuple[list[Point], float]:
    """The curve up to where an earlier call came, and the seconds that it spent."""
    if not (folder / FILE).is_file():
        return [], 0.0
    trainer.load(folder)
    curves = [point for point in load_curves(folder / CURVES) if point.step <= trainer.steps]
    return curves, float(json.loads((folder / SPENT).read_text("utf-8")))
