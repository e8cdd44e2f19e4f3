"""Sparse autoencoders swept: a trial trains one point of a space on the store that all share.

A point may name several layers, which train in one loop on one stream of batches; then a score is
the mean over them, and the last report has each layer's quality with step = layer. The record of a
trial is the one of `trimtab train` (`SaeJob`), so whatever that trains can be swept.

Artifacts: a folder `layers.L` for each layer (`trimtab.sae.folder`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from trimtab.core.errors import ConfigError
from trimtab.core.progress import Report as Progress
from trimtab.core.seeds import Seed
from trimtab.core.tracker import Metric
from trimtab.models.card import ModelConfig
from trimtab.models.configs import config_of
from trimtab.models.hardware import BANDWIDTH_EFFICIENCY, COMPUTE_EFFICIENCY, Machine
from trimtab.models.nursery_fit import NurseryConfig
from trimtab.models.registry import REGISTRY
from trimtab.models.twin_shapes import SHAPES
from trimtab.report.style import save
from trimtab.report.sweep_pareto import pareto_figure
from trimtab.sae.evaluate import Quality
from trimtab.sae.folder import save_sae
from trimtab.sae.training import Trainer
from trimtab.stream.activations import Activations, activations
from trimtab.stream.coders import about, layer_name, measure, parts
from trimtab.stream.config import NURSERY, TWIN
from trimtab.stream.curves import over_layers, points
from trimtab.stream.machine import known_machine
from trimtab.stream.scenarios import read
from trimtab.stream.train_config import SaeJob
from trimtab.sweep.results import POINT, finished, pareto
from trimtab.sweep.study import OWN, Estimate, Prepared, Report, report

L0: Final = "sae/l0"
FVU: Final = "sae/fvu"
_CORE_FLOPS: Final = 3e10
"""float32 operations a second of one core in training. Assumed."""
_CORE_BANDWIDTH: Final = 1e10
"""Bytes a second of one core. Assumed."""
_FLOAT32_SHARE: Final = 1 / 15
"""Of a card's bfloat16 rate (H100: 67 of 989 TFLOP/s)."""
_STEP_BYTES: Final = 40
"""Bytes that a step reads and writes of a weight: itself, its gradient and two moments."""
_CORE_STEP_SECONDS: Final = 1.5e-3
"""Of a step of one layer, beside products and weights: 2.7 ms in all for 1,024 latents of 64."""
_GPU_STEP_SECONDS: Final = 1e-3
"""The same on a card, launches for the most part. Assumed."""
_BYTES_PER_WEIGHT: Final = 16
"""A float32 weight, its gradient, and the optimiser's two moments."""
_FORWARD_AND_BACKWARD: Final = 10
"""Operations of a row for a weight of one matrix: two products forward, three backward."""
_SPARSE: Final = 3
"""The same where products touch active latents only: the encoder forward, and the rest of it."""
_SCHEDULE: Final = frozenset({"train.learning_rate", "train.penalty", "train.clip"})


class Facts(NamedTuple):
    """What is known without extracting anything."""

    rows: int
    """Training rows."""
    d_model: int
    """Width of the residual stream."""
    num_layers: int
    """Blocks of the model."""
    machine: Machine
    """What it would run on."""


class SaeStudy:
    """See `trimtab.sweep.study.Study`."""

    experiment = "trimtab/sae"
    kind = SaeJob
    curve = frozenset(f"validation/{name}" for name in ("mse", "fvu", "l0", "dead"))
    final = frozenset(f"sae/{name}" for name in Quality._fields)
    live = _SCHEDULE

    def survey(self, base: SaeJob, out: Path) -> Facts:
        """See `Study`."""
        table = read(base.data, out).table
        d_model, num_layers = dimensions(base.model)
        with known_machine() as machine:
            return Facts(int((table["split"] == "train").sum()), d_model, num_layers, machine)

    def check(self, trial: SaeJob, facts: Facts) -> None:
        """See `Study`."""
        for layer in () if trial.layers == "all" else trial.layers:
            if layer >= facts.num_layers:
                raise ConfigError(
                    f"`layer < num_layers` must hold, but got ({layer=}, num_layers="
                    f"{facts.num_layers}) for {trial.model.label}. Layers count from 0; the last "
                    f"one is {facts.num_layers - 1}."
                )

    def estimate(self, trial: SaeJob, facts: Facts) -> Estimate:
        """See `Study`."""
        coder, train, gpu = trial.train.coder, trial.train, facts.machine.gpu
        layers = self._num_layers(trial, facts)
        weights = 2 * coder.width * facts.d_model
        sparse = coder.kind == "topk"
        per_row = (_SPARSE if sparse else _FORWARD_AND_BACKWARD) * coder.width * facts.d_model
        if gpu is not None:
            share = 1.0 if train.precision == "bfloat16" else _FLOAT32_SHARE
            flops = gpu.flops * COMPUTE_EFFICIENCY * share
            bandwidth, calls = gpu.bandwidth * BANDWIDTH_EFFICIENCY, _GPU_STEP_SECONDS
            said = f"{flops / 1e12:.0f} TFLOP/s and {bandwidth / 1e12:.1f} TB/s of a {gpu.kind}"
        else:
            flops, bandwidth, calls = _CORE_FLOPS, _CORE_BANDWIDTH, _CORE_STEP_SECONDS
            said = f"{flops / 1e9:.0f} GFLOP/s and {bandwidth / 1e9:.0f} GB/s of a core"
        step = per_row * train.batch_size / flops + _STEP_BYTES * weights / bandwidth + calls
        steps = math.ceil(facts.rows / train.batch_size) * train.epochs * layers
        latents = 3 * 4 * train.batch_size * coder.width
        return Estimate(
            memory=layers * weights * _BYTES_PER_WEIGHT + latents,
            seconds=steps * step,
            disk=layers * weights * 4,
            rate=said,
        )

    def prepare(self, base: SaeJob, out: Path, report: Progress) -> Prepared:
        """See `Study`."""
        found = activations(base.model, base.model_copy(update={"out": out}), report)
        counts = found.scenarios.table["split"].value_counts().iter_rows()
        manifest = found.scenarios.manifest
        return Prepared(
            identity=found.identity,
            payload=found,
            tags={
                "model": found.card.id,
                "family": found.card.family,
                "group": found.card.group,
                "data_hash": found.data_hash,
            },
            dataset=(manifest.source, found.data_hash, manifest.data, dict(sorted(counts))),
        )

    def runs(self, trial: SaeJob) -> Mapping[str, Mapping[str, object]]:  # noqa: ARG002
        """See `Study`."""
        return {OWN: {}}

    def start(self, trial: SaeJob, prepared: Prepared, device: torch.device) -> "SaeRunning":
        """See `Study`."""
        return SaeRunning(trial, prepared.payload, device)

    def closing(self, trials: Sequence[Mapping[str, Any]]) -> None:
        """See `Study`: nothing beside the table of trials."""

    def figures(self, trials: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
        """The Pareto front of L0 against variance unexplained."""
        rows = [row for row in finished(trials) if _known(row, L0) and _known(row, FVU)]
        front = pareto([(row[L0], row[FVU]) for row in rows])
        figure = pareto_figure(rows, front, f"{POINT}train.coder.kind", L0, FVU)
        return [save(figure, folder / "pareto.png")]

    def _num_layers(self, trial: SaeJob, facts: Facts) -> int:
        if trial.layers != "all":
            return len(trial.layers)
        extracted = trial.extract.layers
        return facts.num_layers if extracted == "all" else len(extracted)


class SaeRunning:
    """See `trimtab.sweep.study.Running`: a training of one or several layers."""

    def __init__(self, job: SaeJob, found: Activations, device: torch.device) -> None:
        """Nothing is read before the first step.

        Raises:
            StoreError: a layer that was not extracted, or a damaged shard.
            ConfigError: a split that has no row.
        """
        model = job.model.given(float(device.type == "cuda"))
        self._job, self._found = job.model_copy(update={"model": model}), found
        self._rows = parts(job, found)
        seed = Seed(job.seed).child("sae")
        self._trainer = Trainer(self._rows.train, self._rows.validation, job.train, seed, device)

    def load(self, folder: Path) -> None:
        """See `Running`."""
        self._trainer.load(folder)

    def save(self, folder: Path) -> None:
        """See `Running`."""
        self._trainer.save(folder)

    def reports(self) -> Iterator[Report]:
        """See `Running`; the learning curves as means over the layers, at optimiser steps."""
        for progress in self._trainer.run():
            share = min(progress.epoch / self._job.train.epochs, 1.0)
            metrics = over_layers(list(points(progress.step, progress.metrics)))
            yield report(1.0 if self._trainer.finished else share, metrics)

    def finish(self, folder: Path) -> Report:
        """See `Running`; held-out quality by layer, and the autoencoders."""
        saes = self._trainer.hand_over()
        job, found = self._job, self._found
        quality = measure(job, found, self._rows.held_out, saes, lambda *_: None)
        for layer, sae in saes.items():
            known = about(job, found, layer, len(self._rows.train), quality[layer])
            save_sae(folder / layer_name(layer), sae, known)
        return report(
            1.0,
            [
                Metric(name, value, layer)
                for layer, named in quality.items()
                for name, value in named.items()
            ],
        )


def dimensions(model: ModelConfig) -> tuple[int, int]:
    """Width of the residual stream and number of blocks; no weight is read, nothing is made.

    Raises:
        ModelError: there is no such model.
    """
    name = model.id
    if name.startswith(NURSERY):
        nursery = NurseryConfig()
        return nursery.d_model, nursery.num_layers
    if name.startswith(TWIN) and (known := REGISTRY.get(name.removeprefix(TWIN))):
        return SHAPES[known.family].d_model, SHAPES[known.family].num_layers
    text = config_of(model).get_text_config()
    return text.hidden_size, text.num_hidden_layers


def _known(row: Mapping[str, Any], column: str) -> bool:
    return row.get(column) is not None


STUDY = SaeStudy()
