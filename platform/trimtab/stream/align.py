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
from typing import Any, Final

import numpy as np

from trimtab.core.files import write_json
from trimtab.core.progress import Report
from trimtab.core.seeds import Seed
from trimtab.edits.align import Aligned, Alignment, Epoch
from trimtab.edits.align import align as align_coder
from trimtab.edits.align_compare import compare
from trimtab.locate.latents import Located
from trimtab.locate.latents import locate as locate_latents
from trimtab.report.latents import draw_aligned
from trimtab.sae.about import About
from trimtab.sae.folder import save_sae
from trimtab.stream.curves import Point, save_curves
from trimtab.stream.latent_tables import latent_table, write
from trimtab.stream.moral import TEST, TRAIN, VALIDATION, Opened
from trimtab.stream.moral_config import AlignJob
from trimtab.stream.moral_run import FIGURES, LATENTS, RESULT, MoralResult, Step, carry_out
from trimtab.stream.train_loop import CURVES

ALIGN_VERSION: Final = 1
"""Raised whenever the same configuration begins to give other weights."""
CODER: Final = "coder"
STATE: Final = "state.pt"


class CoderAligned(MoralResult):
    """What an alignment leaves behind."""

    @property
    def coder(self) -> Path:
        """The aligned autoencoder's own folder."""
        return self.folder / CODER


def align(job: AlignJob, report: Report = lambda *_: None) -> CoderAligned:
    """Aligns an autoencoder, or takes up what was aligned.

    Args:
        job: what to do.
        report: told about progress.

    Raises:
        TrimtabError: something the user can mend.
    """
    step = Step(
        name="aligned",
        version=ALIGN_VERSION,
        settings=[job.align.model_dump(mode="json"), job.seed],
        work=lambda found, folder: _aligned(found, job, folder, report),
        tables=(LATENTS, CURVES, RESULT),
    )
    return carry_out(CoderAligned, step, job, report)


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
