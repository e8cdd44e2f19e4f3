"""One MLflow run per diagnosed model, by the conventions of DESIGN 4.

Per-layer metrics carry step = layer, so that the UI's own charts lay models over each other. A
diagnosis that is already in the store at hand is not logged twice.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl

from trimtab.core.config import Config, flat
from trimtab.core.files import finished_file, write_json
from trimtab.core.names import AT_A_GLANCE, BY_LAYER
from trimtab.core.tracker import Metric, Tracker
from trimtab.models.card import ModelCard
from trimtab.report.figures import draw_all
from trimtab.stream.diagnosis import RESULT, Diagnosis

LOGGED = "logged.json"
EXPERIMENT = "trimtab/diagnose"
QUANTISED = ("nf4", "mxfp4", "int8")


def publish(
    diagnosis: Diagnosis,
    config: Config,
    uri: str,
    tracker_for: Callable[[str], Tracker],
    exists: Callable[[str], bool],
) -> str:
    """Logs a diagnosis and returns the run's id; one that is there already is left alone.

    Args:
        config: what the run's parameters are taken from.
        uri: names the tracking store.
        tracker_for: a tracker for a run of the name given.
        exists: whether the store has a run of the id given.

    Raises:
        TrackError: the store does not answer.
    """
    logged = _logged(diagnosis.folder)
    if uri in logged and exists(logged[uri]):
        return logged[uri]
    files = _files(diagnosis)
    with tracker_for(diagnosis.card.label) as tracker:
        tracker.tags(tags(diagnosis))
        tracker.params(flat(config.model_dump(mode="json", exclude={"models", "out"})))
        provenance = diagnosis.provenance
        tracker.dataset(
            provenance["data"], provenance["data_hash"], provenance["source"], provenance["profile"]
        )
        tracker.metrics(metrics(diagnosis))
        for path, folder in files:
            tracker.artifact(path, folder)
    write_json(diagnosis.folder / LOGGED, logged | {uri: tracker.run_id})
    return tracker.run_id


def metrics(diagnosis: Diagnosis) -> list[Metric]:
    """Every measure by layer (the headline ones also at a glance), the peaks, and what it cost."""
    curves = diagnosis.curves
    glances = {name: curves[of] for name, of in AT_A_GLANCE.items() if of in curves}
    by_layer = [
        Metric(name, value, layer)
        for name, layers in {**curves, **glances}.items()
        for layer, value in layers.items()
    ]
    whole = diagnosis.peaks | diagnosis.costs
    return by_layer + [Metric(name, value, 0) for name, value in whole.items()]


def tags(diagnosis: Diagnosis) -> dict[str, str]:
    """What runs are searched and grouped by; `twin_of` marks random weights, never a finding."""
    return model_tags(diagnosis.card, diagnosis.provenance.get("twin_of")) | {
        "block_source": diagnosis.provenance.get("block_source", "resident"),
        "placement": diagnosis.provenance.get("placement", {}).get("why", ""),
        "as_released": str(diagnosis.provenance["as_released"]).lower(),
        "git_commit": diagnosis.provenance["git_commit"],
        "config_hash": diagnosis.provenance["config"],
        "data_hash": diagnosis.provenance["data_hash"],
    }


def model_tags(card: ModelCard, twin_of: str | None) -> dict[str, str]:
    """A model, as runs are searched and grouped by it."""
    return ({"twin_of": twin_of} if twin_of else {}) | {
        "model": card.id,
        "family": card.family,
        "group": card.group,
        "architecture": card.architecture,
        "parameters": str(card.parameters),
        "revision": card.revision,
        "quantisation": card.precision if card.precision in QUANTISED else "none",
        "dtype": card.dtype,
    }


def git_commit() -> str:
    """TRIMTAB_GIT_COMMIT if set (`.git` does not travel with a job), else the working folder's."""
    if told := os.environ.get("TRIMTAB_GIT_COMMIT"):
        return told
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def _files(diagnosis: Diagnosis) -> list[tuple[Path, str]]:
    """The figures, the table and the result itself, with the artifact folder of each."""
    figures = draw_all({diagnosis.card.label: diagnosis.drawn}, diagnosis.folder / "figures")
    table = diagnosis.folder / "measures.parquet"
    rows = [metric for metric in metrics(diagnosis) if metric.name in BY_LAYER]
    with finished_file(table) as temporary:
        pl.DataFrame(
            {
                "model": [diagnosis.card.label] * len(rows),
                "metric": [metric.name for metric in rows],
                "layer": [metric.step for metric in rows],
                "value": [metric.value for metric in rows],
            }
        ).write_parquet(temporary)
    return [
        *((path, "figures") for path in figures),
        (table, "tables"),
        (diagnosis.folder / RESULT, "tables"),
    ]


def _logged(folder: Path) -> dict[str, str]:
    path = folder / LOGGED
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
