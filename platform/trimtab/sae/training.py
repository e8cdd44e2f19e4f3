"""Training sparse autoencoders: several layers on one stream of batches, in one loop.

Each layer has its own coder, optimiser and lambda (`LayerTraining`); the batch's row numbers, the
learning rate and the reports are common. On memory-mapped rows a training that was saved goes on
to the same bits: batches depend on the seed and the epoch's number, and `save` holds all that the
next step depends on.

A loss or gradient that is not finite stops the training before it touches the weights; nothing is
written afterwards, so the last checkpoint stays as it was.

No Ray and no tracker: `run` yields numbers, and a driver sends them where they belong.
"""

import math
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trimtab.core.errors import CoderError, ConfigError, TrainingError
from trimtab.core.seeds import Seed
from trimtab.sae import checkpoint
from trimtab.sae.batches import Batches, MappedBatches
from trimtab.sae.coder import Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.layer import LayerTraining, begin
from trimtab.sae.rows import LayerRows
from trimtab.sae.schedule import good_epoch, learning_rate, next_lambda
from trimtab.sae.topk import Workspace
from trimtab.sae.validation import Measured, measured


class Progress(NamedTuple):
    """One report."""

    step: int
    """Optimiser steps done."""
    epoch: float
    """Passes over the training rows done."""
    metrics: dict[int, dict[str, float]]
    """By layer: `train/...` averaged since the last report, `validation/...` now."""


class Trainer:
    """Several layers in training."""

    def __init__(
        self,
        train: LayerRows | Batches,
        validation: LayerRows | None,
        config: TrainConfig,
        seed: Seed,
        device: torch.device,
        start: Mapping[int, Sae] | None = None,
    ) -> None:
        """Nothing is read before the first step.

        Args:
            train: memory-mapped rows, or a stream of batches from elsewhere.
            validation: rows of the same layers that are only measured on.
            config: the same for every layer.
            seed: names the start, the batches and the validation sample.
            device: where the weights live.
            start: coders to go on from, one a layer; their centres are kept.

        Raises:
            ConfigError: the stop rule has no validation rows to look at.
        """
        if config.stop is not None and not validation:
            raise ConfigError("`stop` looks at validation rows, but there are none.")
        if isinstance(train, LayerRows):
            pinned, draws = device.type == "cuda", seed.child("batches")
            train = MappedBatches(train, config.batch_size, draws, pinned=pinned)
        self.config = config
        self.steps = 0
        self._train = train
        self._validation = validation
        self._seed = seed
        self._device = device
        self._start = dict(start or {})
        self._work = Workspace()
        self._layers: dict[int, LayerTraining] = {}
        self._epoch, self._rows = 0, 0
        self._stopped = False
        self._failure: str | None = None
        self._clock, self._rows_since = time.perf_counter(), 0

    @property
    def layers(self) -> dict[int, LayerTraining]:
        """What is in training, by layer; begun when first asked for, unless loaded before."""
        if not self._layers:
            self._layers = {
                k: begin(self._train, k, self.config, self._seed, self._device, self._start.get(k))
                for k in self._train.layers
            }
        return self._layers

    @property
    def saes(self) -> dict[int, Sae]:
        """The coders as they are now, for raw activations; they share their two matrices with the
        training, so that they change with it.
        """
        return {layer: state.ready() for layer, state in self.layers.items()}

    def hand_over(self) -> dict[int, Sae]:
        """The coders, when there is no step to come: gradients, moments and buffers are let go of,
        so that a model has room beside them.
        """
        saes = self.saes
        for state in self.layers.values():
            state.let_go()
        self._work = Workspace()
        return saes

    @property
    def epochs_done(self) -> float:
        """Passes over the training rows."""
        return self._epoch + self._rows / len(self._train)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is over or the stop rule holds for every layer."""
        return self._stopped or self.epochs_done >= self.config.epochs

    def run(self) -> Iterator[Progress]:
        """Trains from where it is to the end; a report each `report_steps` and at the end.

        Raises:
            TrainingError: a loss or gradient is not finite.
        """
        self._clock, self._rows_since = time.perf_counter(), 0
        while not self.finished:
            for batch in self._train.epoch(self._epoch, self._rows):
                self.step(batch)
                if self.finished or self.steps % self.config.report_steps == 0:
                    yield self._report()
                if self.finished:
                    return

    def step(self, batch: dict[int, Tensor]) -> None:
        """One optimiser step of every layer, on raw rows [b, d_model] by layer.

        Raises:
            TrainingError: a loss or gradient is not finite.
        """
        num = len(next(iter(batch.values())))
        where = f"step {self.steps} (epoch {self._epoch}, rows {self._rows} to {self._rows + num})"
        rate = learning_rate(self.config, self.epochs_done + num / len(self._train))
        for layer, state in self.layers.items():
            terms = state.gradients(batch[layer], self._work)
            norm = state.gradient_norm()
            if not math.isfinite(float(terms.loss)) or not math.isfinite(norm):
                self._fail(layer, where, float(terms.loss), norm)
            state.update(terms, norm, rate, num)
        self.steps += 1
        self._rows += num
        self._rows_since += num
        if self._rows >= len(self._train):
            self._epoch, self._rows = self._epoch + 1, 0
            self._end_epoch()

    def save(self, folder: Path) -> None:
        """Writes a checkpoint into a folder, over the one that is there.

        Raises:
            TrainingError: the training has failed: the checkpoint that is there stays.
            OutputError: the folder cannot be written.
        """
        if self._failure is not None:
            raise TrainingError(self._failure)
        place = {
            "steps": self.steps,
            "epoch": self._epoch,
            "rows": self._rows,
            "of": len(self._train),
            "stopped": self._stopped,
        }
        checkpoint.write(folder, self.layers, place)

    def load(self, folder: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            CoderError: it is not there, or of another coder, other layers or other rows.
        """
        train = self._train
        layers, place = checkpoint.read(
            folder, train.layers, self.config, train.d_model, self._device
        )
        if place["of"] != len(train):
            raise CoderError(
                f"The checkpoint in {folder} must be of a training on {len(train)} rows, but is of "
                f"one on {place['of']}. Give it the rows it was begun with."
            )
        self._layers = layers
        self.steps, self._stopped = place["steps"], place["stopped"]
        self._epoch, self._rows = place["epoch"], place["rows"]

    def _end_epoch(self) -> None:
        """Lambda moves, and the stop rule is looked at."""
        config = self.config
        for layer, state in self.layers.items():
            l0 = state.epoch_l0()
            if config.target_l0 is None:
                continue
            state.penalty = next_lambda(state.penalty, l0, config.target_l0)
            if config.stop is not None:
                now = self._measured(layer, state)
                good = good_epoch(config.stop, config.target_l0, now.mse, now.l0)
                state.good_epochs = state.good_epochs + 1 if good else 0
        if config.stop is not None:
            wanted = config.stop.epochs
            self._stopped = all(state.good_epochs >= wanted for state in self.layers.values())

    def _report(self) -> Progress:
        seconds = max(time.perf_counter() - self._clock, 1e-9)
        rate = learning_rate(self.config, self.epochs_done)
        metrics = {}
        for layer, state in self.layers.items():
            seen = {f"train/{name}": value for name, value in state.report().items()}
            seen["train/learning_rate"] = rate
            seen["train/rows_per_second"] = self._rows_since / seconds
            if self._validation:
                now = self._measured(layer, state)._asdict()
                seen |= {f"validation/{name}": value for name, value in now.items()}
            metrics[layer] = seen
        self._clock, self._rows_since = time.perf_counter(), 0
        return Progress(self.steps, self.epochs_done, metrics)

    def _measured(self, layer: int, state: LayerTraining) -> Measured:
        assert self._validation is not None
        return measured(state.ready(), self._validation, layer, self._sample)

    @cached_property
    def _sample(self) -> np.ndarray:
        assert self._validation is not None
        num = len(self._validation)
        order = self._seed.child("validation").numpy().permutation(num)
        return np.sort(order[: self.config.validation_rows])

    def _fail(self, layer: int, where: str, loss: float, norm: float) -> None:
        self._failure = (
            f"The loss must be a finite number, but at layer {layer}, {where}, it is {loss:g} and "
            f"its gradient's norm {norm:g}. The last checkpoint is as it was. Lower "
            "`learning_rate`, or look for rows of extreme activations."
        )
        raise TrainingError(self._failure)
