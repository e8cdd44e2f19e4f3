"""The driver of `trimtab locate`: an autoencoder in, its moral latents out.

    located/NAME-LAYER-HASH/latents.parquet    every latent: class, correlations, concepts
                            scenarios.parquet  what activates the best latent of each dimension most
                            figures/
                            result.json        written last: outcome, metrics, rows

Validation rows identify. What is finished is reused, and logged in a store that lacks it.
"""

from pathlib import Path
from typing import Any, Final

import polars as pl

from trimtab.core.files import write_json
from trimtab.core.progress import Report
from trimtab.core.seeds import Seed
from trimtab.locate.latents import locate as locate_latents
from trimtab.report.latents import draw_located
from trimtab.stream.latent_tables import (
    correlations_by_pole,
    latent_table,
    scenario_table,
    write,
)
from trimtab.stream.moral import VALIDATION, Opened
from trimtab.stream.moral_config import LocateJob
from trimtab.stream.moral_run import FIGURES, LATENTS, RESULT, MoralResult, Step, carry_out

LOCATE_VERSION: Final = 1
"""Raised whenever the same configuration begins to find other latents."""
SCENARIOS: Final = "scenarios.parquet"


class LatentsFound(MoralResult):
    """What locating leaves behind."""

    @property
    def latents(self) -> pl.DataFrame:
        """One row for each latent."""
        return pl.read_parquet(self.folder / LATENTS)

    @property
    def scenarios(self) -> pl.DataFrame:
        """What activates the best latent of each dimension most."""
        return pl.read_parquet(self.folder / SCENARIOS)


def locate(job: LocateJob, report: Report = lambda *_: None) -> LatentsFound:
    """Finds the moral latents of an autoencoder, or takes up what was found.

    Args:
        job: what to do.
        report: told about progress.

    Raises:
        TrimtabError: something the user can mend.
    """
    step = Step(
        name="located",
        version=LOCATE_VERSION,
        settings=[job.latents.model_dump(mode="json"), job.seed, job.scenarios],
        work=lambda found, folder: _located(found, job, folder, report),
        tables=(LATENTS, SCENARIOS, RESULT),
    )
    return carry_out(LatentsFound, step, job, report)


def _located(found: Opened, job: LocateJob, folder: Path, report: Report) -> dict[str, Any]:
    stage = f"{found.found.card.label} L{found.layer}: locate"
    report(stage, 0, 1)
    data = found.data.of_split(VALIDATION)
    located = locate_latents(found.sae, data, job.latents, Seed(job.seed))
    table = latent_table(located)
    write(table, folder / LATENTS)
    write(scenario_table(located, found, job.latents, job.scenarios), folder / SCENARIOS)
    result = {
        "outcome": located.outcome,
        "layer": found.layer,
        "width": found.sae.width,
        "metrics": located.named(),
        "rows": found.num_rows,
        "repeats": found.repeats,
        "sae": str(job.sae),
    }
    subtitle = f"{found.found.card.label}, layer {found.layer}, n = {len(data.labels):,}"
    strengths = correlations_by_pole(table, job.latents.num_prototypes)
    draw_located(strengths, job.latents.strong, subtitle, folder / FIGURES)
    write_json(folder / RESULT, result)
    report(stage, 1, 1)
    return result
