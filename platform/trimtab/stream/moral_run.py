"""What `trimtab locate` and `trimtab align` share: an autoencoder's result, worked out once, logged once.

Every result has a folder named by all that decides it, `result.json` written last, and one MLflow
run. What is finished is reused, and logged in a store that lacks it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from trimtab.core.config import flat
from trimtab.core.files import writable_folder
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report
from trimtab.models.card import ModelCard
from trimtab.stream.curves import load_curves
from trimtab.stream.moral import Opened, opened
from trimtab.stream.moral_config import MoralJob
from trimtab.stream.train import EXPERIMENT
from trimtab.stream.train_log import TrainLog
from trimtab.stream.train_loop import CURVES
from trimtab.track.mlflow import MlflowTracker, prepare_store, run_exists, sqlite_uri

RESULT: Final = "result.json"
LATENTS: Final = "latents.parquet"
FIGURES: Final = "figures"


@dataclass(frozen=True)
class MoralResult:
    """What is known of one autoencoder afterwards."""

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
    """Whether it had been worked out before."""
    run_id: str
    """MLflow's."""
    tracking_uri: str
    """The MLflow store."""


_Result = TypeVar("_Result", bound=MoralResult)


class Step(NamedTuple):
    """What is to be worked out of an autoencoder."""

    name: str
    """`located` or `aligned`: the folder of its results."""
    version: int
    """Raised whenever the same configuration begins to give other results."""
    settings: list[object]
    """All that decides the result, apart from the autoencoder and its rows."""
    work: Callable[[Opened, Path], dict[str, Any]]
    """Writes tables and figures into a folder, `result.json` last, and returns the result."""
    tables: tuple[str, ...]
    """Files that MLflow gets."""


def carry_out(kind: type[_Result], step: Step, job: MoralJob, report: Report) -> _Result:
    """Works it out, or takes up what was worked out; logs it.

    Raises:
        TrimtabError: something the user can mend.
    """
    out = writable_folder(job.out).resolve()
    uri = prepare_store(job.tracking_uri or sqlite_uri(out))
    found = opened(job, report)
    label = f"{found.found.card.label}-L{found.layer}"
    identity = content_hash([step.version, *found.identity, job.extract.pooling, *step.settings])
    folder = writable_folder(out / step.name / f"{label}-{identity}")
    before = _finished(folder)
    result = before or step.work(found, folder)
    figures = sorted((folder / FIGURES).glob("*.png"))
    log = _log_of(folder, uri)
    if not log.finished:
        with log:
            log.begin(found.tags(job), _params(job), found.dataset)
            if (folder / CURVES).is_file():
                log.follow(load_curves(folder / CURVES))
            files = [(path, FIGURES) for path in figures]
            tables = [(folder / name, "tables") for name in step.tables]
            log.finish({found.layer: result["metrics"]}, files + tables)
    if before:
        report(f"{label}: {step.name} before, reused", 1, 1)
    return kind(
        card=found.found.card,
        layer=found.layer,
        folder=folder,
        result=result,
        figures=figures,
        reused=before is not None,
        run_id=log.run_id,
        tracking_uri=uri,
    )


def _finished(folder: Path) -> dict[str, Any] | None:
    path = folder / RESULT
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _log_of(folder: Path, uri: str) -> TrainLog:
    name = f"{folder.parent.name} {folder.name}"
    return TrainLog(
        folder,
        uri,
        lambda run_id: MlflowTracker(EXPERIMENT, name, uri, run_id),
        lambda run_id: run_exists(uri, run_id),
    )


def _params(job: MoralJob) -> dict[str, object]:
    return flat(job.model_dump(mode="json", exclude={"model", "out", "tracking_uri"}))
