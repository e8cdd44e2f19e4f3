"""Alignments swept: a trial aligns one autoencoder with one point of weights, margins and sets.

All trials read one store and one autoencoder: the one that `sae` names, or one that is trained once,
before them (`train`). The record of a trial is that of `trimtab align`, so whatever that is told
can be swept. Losses on held-out rows are the curve; before and after on test rows is the last
report. A trial in which no latent is above the threshold ends with its coder as it was.

Artifacts: the aligned autoencoder in `coder` (`trimtab.sae.folder`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from pydantic import model_validator

from trimtab.core.errors import ConfigError, DataError
from trimtab.core.hashing import content_hash
from trimtab.core.names import ALIGN_TERMS
from trimtab.core.progress import Report as Progress
from trimtab.core.seeds import Seed
from trimtab.core.tracker import Metric
from trimtab.edits.align import Aligned, Alignment
from trimtab.locate.latents import locate
from trimtab.models.hardware import COMPUTE_EFFICIENCY, Machine
from trimtab.report.latents import comparison_table, draw_aligned
from trimtab.report.tables import Cell
from trimtab.sae.config import TrainConfig
from trimtab.sae.folder import load_sae, save_sae
from trimtab.stream.align import CODER, about_aligned, curve_of, judged
from trimtab.stream.curves import over_layers
from trimtab.stream.machine import known_machine
from trimtab.stream.moral import TRAIN, VALIDATION, beside, opened
from trimtab.stream.moral_config import AlignJob
from trimtab.stream.scenarios import read
from trimtab.stream.train import train
from trimtab.stream.train_config import EvaluateConfig, TrainJob
from trimtab.sweep.results import TRIAL, Row, finished
from trimtab.sweep.studies.sae import dimensions
from trimtab.sweep.study import OWN, Closing, Estimate, Prepared, Report, report

STATE: Final = "alignment.pt"
_CORE_FLOPS: Final = 3e10
"""float32 operations a second of one core. Assumed."""
_PER_WEIGHT: Final = 8
"""Operations of a row for a weight of one matrix and epoch: encoded, decoded, half trained."""


class AlignTrial(AlignJob):
    """One alignment; the autoencoder is given, or trained first."""

    sae: Path | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """The autoencoder's own folder; null trains one."""
    train: TrainConfig | None = None
    """How it is trained where none is given, on `layer`, by `seed`."""

    @model_validator(mode="after")
    def _has_one_coder(self) -> "AlignTrial":
        if (self.sae is None) == (self.train is None):
            raise ValueError("one of `sae` and `train` must say where the autoencoder comes from")
        if self.train is not None and self.layer is None:
            raise ValueError("`layer` must be given with `train`: what the autoencoder reads")
        return self


class Facts(NamedTuple):
    """What is known without extracting anything."""

    rows: int
    """Training rows."""
    d_model: int
    """Width of the residual stream."""
    num_layers: int
    """Blocks of the model."""
    width: int
    """Latents of the autoencoder."""
    machine: Machine
    """What it would run on."""


class AlignStudy:
    """See `trimtab.sweep.study.Study`."""

    experiment = "trimtab/sae"
    kind = AlignTrial
    curve = frozenset(f"align/validation/{term}" for term in ("loss", *ALIGN_TERMS))
    final = frozenset(
        f"align/{stage}/{score}"
        for stage in ("before", "after", "change")
        for score in ("monosemantic", "prototypicality/mean", "pair_cosine/mean", "mse", "fvu")
    )
    live = frozenset[str]()

    def survey(self, base: AlignTrial, out: Path) -> Facts:
        """See `Study`."""
        table = read(base.data, out).table
        d_model, num_layers = dimensions(base.model)
        width = base.train.coder.width if base.train else load_sae(_folder(base)).sae.width
        rows = int((table["split"] == "train").sum())
        with known_machine() as machine:
            return Facts(rows, d_model, num_layers, width, machine)

    def check(self, trial: AlignTrial, facts: Facts) -> None:
        """See `Study`."""
        if trial.layer is not None and trial.layer >= facts.num_layers:
            raise ConfigError(
                f"`layer < num_layers` must hold, but got (layer={trial.layer}, num_layers="
                f"{facts.num_layers}) for {trial.model.label}. Layers count from 0."
            )

    def estimate(self, trial: AlignTrial, facts: Facts) -> Estimate:
        """See `Study`."""
        width = facts.width
        weights = 2 * width * facts.d_model
        flops = _PER_WEIGHT * width * facts.d_model * facts.rows * trial.align.epochs
        gpu = facts.machine.gpu
        rate = _CORE_FLOPS if gpu is None else gpu.flops * COMPUTE_EFFICIENCY
        where = "a core" if gpu is None else f"a {gpu.kind}"
        return Estimate(
            memory=3 * 4 * weights + 3 * 4 * trial.align.batch * width,
            seconds=flops / rate,
            disk=4 * weights,
            rate=f"{rate / 1e9:,.0f} GFLOP/s on {where}",
        )

    def prepare(self, base: AlignTrial, out: Path, report: Progress) -> Prepared:
        """See `Study`; trains the autoencoder where none is given."""
        base = base.model_copy(update={"out": out})
        folder = _trained(base, report) if base.train else _folder(base)
        found = opened(base.model_copy(update={"sae": folder}), report)
        return Prepared(
            identity=content_hash(found.identity),
            payload=(found.found, folder.resolve(), found.layer),
            tags={
                "model": found.found.card.id,
                "family": found.found.card.family,
                "group": found.found.card.group,
                "data_hash": found.found.data_hash,
            },
            dataset=found.dataset,
        )

    def runs(self, trial: AlignTrial) -> Mapping[str, Mapping[str, object]]:  # noqa: ARG002
        """See `Study`."""
        return {OWN: {}}

    def start(self, trial: AlignTrial, prepared: Prepared, device: torch.device) -> "AlignRunning":
        """See `Study`."""
        return AlignRunning(trial, prepared, device)

    def closing(self, trials: Sequence[Mapping[str, Any]]) -> Closing | None:
        """See `Study`: the best trial before and after, on rows that chose nothing."""
        ended = finished(trials)
        if not ended:
            return None
        best = ended[0]
        rows = [
            {title: _shown(row[column]) for column, title in _TITLES.items()}
            for row in comparison_table(_scores(best))
        ]
        says = (
            f"On {best['align/after/rows']:,.0f} test rows, which neither chose the settings nor "
            "chose or trained a latent. Anew: the latents that the aligned autoencoder's own "
            "correlations choose."
        )
        return Closing(f"Trial {best[TRIAL]}, before and after", rows, says)

    def figures(self, trials: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
        """See `Study`: the best trial before and after."""
        ended = finished(trials)
        if not ended:
            return []
        rows = ended[0]["align/after/rows"]
        subtitle = f"trial {ended[0][TRIAL]}, {rows:,.0f} test rows"
        return draw_aligned(_scores(ended[0]), subtitle, folder)


_TITLES: Final = {
    "score": "",
    "before": "Before",
    "after": "After",
    "change": "Change",
    "reidentified": "Anew",
}


def _scores(row: Row) -> dict[str, float]:
    return {n: v for n, v in row.items() if n.startswith("align/") and isinstance(v, float)}


def _shown(value: Cell) -> str:
    return f"{value:z.4f}" if isinstance(value, float) else str(value or "–")


class AlignRunning:
    """See `trimtab.sweep.study.Running`."""

    def __init__(self, job: AlignTrial, prepared: Prepared, device: torch.device) -> None:
        """Finds the latents; nothing is trained before the first report.

        Raises:
            StoreError: the layer is not extracted, or a shard is damaged.
            DataError: a split without rows.
        """
        activations, folder, layer = prepared.payload
        self._job = job.model_copy(update={"sae": folder})
        self._found = beside(load_sae(folder), layer, activations, self._job, device)
        data = self._found.data
        config = job.align.latents.model_copy(update={"permutations": 0})
        validation = data.of_split(VALIDATION)
        self._located = locate(self._found.sae, validation, config, Seed(job.seed))
        self._alignment = None
        if self._located.sets.found:
            self._alignment = Alignment(
                *(self._found.sae, self._located, data.of_split(TRAIN), validation),
                config=job.align,
                seed=Seed(job.seed),
            )

    def load(self, folder: Path) -> None:
        """See `Running`."""
        if self._alignment is not None:
            self._alignment.load(folder / STATE)

    def save(self, folder: Path) -> None:
        """See `Running`."""
        if self._alignment is not None:
            self._alignment.save(folder / STATE)

    def reports(self) -> Iterator[Report]:
        """See `Running`; the losses of each epoch, at its number."""
        alignment = self._alignment
        if alignment is None:
            return
        for _ in alignment.run():
            done = len(alignment.epochs)
            points = [p for p in curve_of(alignment.epochs, self._found.layer) if p.step == done]
            share = 1.0 if alignment.finished else done / self._job.align.epochs
            yield report(share, over_layers(points))

    def finish(self, folder: Path) -> Report:
        """See `Running`; before and after on test rows, and the aligned autoencoder.

        Raises:
            DataError: too few test rows for the scores.
        """
        found, alignment = self._found, self._alignment
        unchanged = Aligned(found.sae, self._located.sets.trained()[:0], [], 0)
        aligned = unchanged if alignment is None else alignment.result()
        metrics = judged(found, self._located, aligned, self._job)
        if missing := AlignStudy.final - metrics.keys():
            raise DataError(
                f"Every score must be defined on the test rows, but {', '.join(sorted(missing))} "
                "is not. Lower `align.latents.min_rows`, or take more data."
            )
        about = about_aligned(found, self._job, aligned, metrics)
        save_sae(folder / CODER, aligned.sae, about)
        return report(1.0, [Metric(name, value, found.layer) for name, value in metrics.items()])


def _folder(trial: AlignTrial) -> Path:
    assert trial.sae is not None, "the record has checked that there is one"
    return trial.sae


def _trained(base: AlignTrial, told: Progress) -> Path:
    """The folder of the autoencoder that all trials align."""
    assert base.train is not None
    assert base.layer is not None
    layers = (base.layer,)
    job = TrainJob(
        model=base.model,
        data=base.data,
        extract=base.extract.model_copy(update={"layers": layers}),
        workers=base.workers,
        out=base.out,
        layers=layers,
        train=base.train,
        seed=base.seed,
        evaluate=EvaluateConfig(texts=0),
        device=base.device,
        tracking_uri=base.tracking_uri,
    )
    return train(job, told).coders[base.layer]


STUDY = AlignStudy()
