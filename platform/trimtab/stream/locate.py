"""The driver of `trimtab locate`: an autoencoder in, its moral latents out.

    located/NAME-LAYER-HASH/latents.parquet    every latent: class, correlations, concepts
                            scenarios.parquet  what activates the best latent of each dimension most
                            figures/
                            result.json        written last: outcome, metrics, rows

Validation rows identify. What is finished is reused, and logged in a store that lacks it.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from trimtab.core.config import flat
from trimtab.core.files import writable_folder, write_json
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report
from trimtab.core.seeds import Seed
from trimtab.locate.latents import locate as locate_latents
from trimtab.models.loading import ModelCard
from trimtab.report.latents import draw_located
from trimtab.stream.latent_tables import (
    correlations_by_pole,
    latent_table,
    scenario_table,
    write,
)
from trimtab.stream.moral import VALIDATION, Opened, opened
from trimtab.stream.moral_config import LocateJob
from trimtab.stream.train import EXPERIMENT
from trimtab.stream.train_log import TrainLog
from trimtab.track.mlflow import MlflowTracker, prepare_store, run_exists, sqlite_uri

LOCATE_VERSION: Final = 1
"""Raised whenever the same configuration begins to find other latents."""
RESULT: Final = "result.json"
LATENTS: Final = "latents.parquet"
SCENARIOS: Final = "scenarios.parquet"
FIGURES: Final = "figures"


class LatentsFound(NamedTuple):
    """What locating leaves behind."""

    card: ModelCard
    """The model."""
    layer: int
    """The layer that the autoencoder reads."""
    folder: Path
    """Tables, figures and the result."""
    result: dict[str, Any]
    """`outcome` in words, `metrics`, `rows` of each split, `repeats` of training actions."""
    figures: list[Path]
    """PNG files."""
    reused: bool
    """Whether it had been found before."""
    run_id: str
    """MLflow's."""
    tracking_uri: str
    """The MLflow store."""

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
    out = writable_folder(job.out).resolve()
    uri = prepare_store(job.tracking_uri or sqlite_uri(out))
    found = opened(job, report)
    settings = [job.latents.model_dump(mode="json"), job.seed, job.scenarios]
    identity = content_hash([LOCATE_VERSION, *found.identity, job.extract.pooling, *settings])
    label = f"{found.found.card.label}-L{found.layer}"
    folder = writable_folder(out / "located" / f"{label}-{identity}")
    before = finished(folder)
    result = before or _located(found, job, folder, report)
    figures = sorted((folder / FIGURES).glob("*.png"))
    log = log_of(folder, uri)
    if not log.finished:
        with log:
            log.begin(found.tags(job), params_of(job), found.dataset)
            files = [(path, FIGURES) for path in figures]
            tables = [(folder / name, "tables") for name in (LATENTS, SCENARIOS, RESULT)]
            log.finish({found.layer: result["metrics"]}, files + tables)
    if before:
        report(f"{label}: latents located before, reused", 1, 1)
    return LatentsFound(
        card=found.found.card,
        layer=found.layer,
        folder=folder,
        result=result,
        figures=figures,
        reused=before is not None,
        run_id=log.run_id,
        tracking_uri=uri,
    )


def finished(folder: Path) -> dict[str, Any] | None:
    """The result in a folder, if it is finished."""
    path = folder / RESULT
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def log_of(folder: Path, uri: str) -> TrainLog:
    """The MLflow run of a result, whatever became of it before."""
    return TrainLog(
        folder,
        uri,
        lambda run_id: MlflowTracker(
            EXPERIMENT, f"{folder.parent.name} {folder.name}", uri, run_id
        ),
        lambda run_id: run_exists(uri, run_id),
    )


def params_of(job: Any) -> dict[str, object]:  # noqa: ANN401 (any job's record)
    """The settings of a run, flat."""
    return flat(job.model_dump(mode="json", exclude={"model", "out", "tracking_uri"}))


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
