"""The driver of `trimtab align`: an autoencoder in, the same with its moral latents aligned out.

    aligned/NAME-LAYER-HASH/coder/           the aligned autoencoder (`trimtab.sae.folder`)
                            latents.parquet  every latent before, and whether it was trained
                            curves.parquet   losses by epoch
                            figures/
                            result.json      written last: outcome, before and after, rows
                            state.pt         while it is not finished: what it goes on from

Validation rows identify the latents and say when to stop; test rows judge. What is finished is
reused; what was cut short goes on after its last epoch to the same bits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from trimtab.core.files import writable_folder, write_json
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report
from trimtab.core.seeds import Seed
from trimtab.edits.align import Aligned, Alignment, Epoch
from trimtab.edits.align import align as align_coder
from trimtab.edits.align_compare import compare
from trimtab.locate.latents import Located
from trimtab.locate.latents import locate as locate_latents
from trimtab.models.loading import ModelCard
from trimtab.report.latents import draw_aligned
from trimtab.sae.about import About
from trimtab.sae.folder import save_sae
from trimtab.stream.curves import Point, load_curves, save_curves
from trimtab.stream.latent_tables import latent_table, write
from trimtab.stream.locate import FIGURES, LATENTS, RESULT, finished, log_of, params_of
from trimtab.stream.moral import TEST, TRAIN, VALIDATION, Opened, opened
from trimtab.stream.moral_config import AlignJob
from trimtab.stream.train import CURVES
from trimtab.track.mlflow import prepare_store, sqlite_uri

ALIGN_VERSION: Final = 1
"""Raised whenever the same configuration begins to give other weights."""
CODER: Final = "coder"
STATE: Final = "state.pt"


class CoderAligned(NamedTuple):
    """What an alignment leaves behind."""

    card: ModelCard
    """The model."""
    layer: int
    """The layer that the autoencoder reads."""
    folder: Path
    """Tables, figures and the result."""
    coder: Path
    """The aligned autoencoder's own folder."""
    result: dict[str, Any]
    """`outcome` in words, `metrics` (`align/before/...`, `align/after/...`), rows, epochs."""
    figures: list[Path]
    """PNG files."""
    reused: bool
    """Whether it had been aligned before."""
    run_id: str
    """MLflow's."""
    tracking_uri: str
    """The MLflow store."""


def align(job: AlignJob, report: Report = lambda *_: None) -> CoderAligned:
    """Aligns an autoencoder, or takes up what was aligned.

    Args:
        job: what to do.
        report: told about progress.

    Raises:
        TrimtabError: something the user can mend.
    """
    out = writable_folder(job.out).resolve()
    uri = prepare_store(job.tracking_uri or sqlite_uri(out))
    found = opened(job, report)
    settings = [job.align.model_dump(mode="json"), job.seed]
    identity = content_hash([ALIGN_VERSION, *found.identity, job.extract.pooling, *settings])
    label = f"{found.found.card.label}-L{found.layer}"
    folder = writable_folder(out / "aligned" / f"{label}-{identity}")
    before = finished(folder)
    result = before or _aligned(found, job, folder, report)
    figures = sorted((folder / FIGURES).glob("*.png"))
    log = log_of(folder, uri)
    if not log.finished:
        with log:
            log.begin(found.tags(job), params_of(job), found.dataset)
            log.follow(load_curves(folder / CURVES))
            files = [(path, FIGURES) for path in figures]
            tables = [(folder / name, "tables") for name in (LATENTS, CURVES, RESULT)]
            log.finish({found.layer: result["metrics"]}, files + tables)
    if before:
        report(f"{label}: aligned before, reused", 1, 1)
    return CoderAligned(
        card=found.found.card,
        layer=found.layer,
        folder=folder,
        coder=folder / CODER,
        result=result,
        figures=figures,
        reused=before is not None,
        run_id=log.run_id,
        tracking_uri=uri,
    )


def judged(found: Opened, located: Located, aligned: Aligned, config: AlignJob) -> dict[str, float]:
    """Before and after on the test rows, and how many latents were trained, as metrics."""
    counts = {"trained": len(aligned.trained), "strict": len(located.sets.strict)}
    comparison = compare(
        found.sae,
        aligned.sae,
        located.sets,
        found.data.of_split(VALIDATION),
        found.data.of_split(TEST),
        config.align.latents,
    )
    return comparison.named() | {f"align/latents/{k}": float(n) for k, n in counts.items()}


def curve_of(epochs: list[Epoch], layer: int) -> list[Point]:
    """The losses by epoch, from 1."""
    return [
        Point(step, layer, f"align/{rows}/{term}", value)
        for step, epoch in enumerate(epochs, 1)
        for rows, losses in (("train", epoch.train), ("validation", epoch.validation))
        for term, value in losses.items()
    ]


def _aligned(found: Opened, job: AlignJob, folder: Path, report: Report) -> dict[str, Any]:
    label = f"{found.found.card.label} L{found.layer}"
    report(f"{label}: locate", 0, 1)
    # Chance has been asked by `trimtab locate`; here only the sets are needed.
    config = job.align.latents.model_copy(update={"permutations": 0})
    data = [found.data.of_split(split) for split in (TRAIN, VALIDATION)]
    located = locate_latents(found.sae, data[1], config, Seed(job.seed))
    report(f"{label}: locate", 1, 1)
    aligned = _trained(found, located, job, folder, lambda *of: report(f"{label}: align", *of))
    report(f"{label}: before and after", 0, 1)
    metrics = judged(found, located, aligned, job)
    save_sae(folder / CODER, aligned.sae, about_aligned(found, job, aligned, metrics))
    write(latent_table(located), folder / LATENTS)
    save_curves(folder / CURVES, curve_of(aligned.epochs, found.layer))
    result = {
        "outcome": located.outcome,
        "layer": found.layer,
        "width": found.sae.width,
        "metrics": metrics,
        "epochs": len(aligned.epochs),
        "best_epoch": aligned.best,
        "rows": found.num_rows,
        "repeats": found.repeats,
        "sae": str(job.sae),
    }
    rows = result["rows"]["test"]
    draw_aligned(metrics, f"{label}, {rows:,} test rows", folder / FIGURES)
    write_json(folder / RESULT, result)
    (folder / STATE).unlink(missing_ok=True)
    report(f"{label}: before and after", 1, 1)
    return result


def _trained(
    found: Opened, located: Located, job: AlignJob, folder: Path, told: Callable[[int, int], None]
) -> Aligned:
    train, validation = (found.data.of_split(split) for split in (TRAIN, VALIDATION))
    seed = Seed(job.seed)
    if not located.sets.found:
        return align_coder(found.sae, located, train, validation, job.align, seed)
    alignment = Alignment(found.sae, located, train, validation, job.align, seed)
    if (folder / STATE).is_file():
        alignment.load(folder / STATE)
    for _ in alignment.run():
        alignment.save(folder / STATE)
        told(min(len(alignment.epochs), job.align.epochs - 1), job.align.epochs)
    told(job.align.epochs, job.align.epochs)
    return alignment.result()


def about_aligned(
    found: Opened, job: AlignJob, aligned: Aligned, metrics: dict[str, float]
) -> About:
    """What the first autoencoder's folder says, and what was done to it."""
    card, about = found.found.card, found.about
    measured = {name: value for name, value in metrics.items() if np.isfinite(value)}
    return about.model_copy(
        update={
            "model": about.model or card.id,
            "revision": about.revision or card.revision,
            "layer": found.layer,
            "quality": measured,
            "provenance": about.provenance
            | {
                "aligned_from": str(job.sae),
                "alignment": job.align.model_dump(mode="json") | {"seed": job.seed},
                "alignment_data": found.found.identity,
                "trained_latents": aligned.trained.tolist(),
                "best_epoch": aligned.best,
            },
        }
    )
