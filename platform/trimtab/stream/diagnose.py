"""The driver of the first job: scenarios and models in, a diagnosis of each model out.

Everything that can be wrong with the input is found before Ray is started: the store of runs
answers, the folder can be written, each model has a configuration and a tokenizer, each layer
exists, each prompt fits. Then the models run one after another. What is finished is not computed
again, and what is computed is logged before the next model begins.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from trimtab.core.errors import ConfigError
from trimtab.core.files import finished_file, writable_folder
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report
from trimtab.report.figures import draw_all
from trimtab.report.tables import Cell, summary
from trimtab.store.reader import open_store
from trimtab.stream import twins
from trimtab.stream.blocks import Plan
from trimtab.stream.config import DiagnoseConfig
from trimtab.stream.diagnosis import Diagnosis, load_diagnosis
from trimtab.stream.extract import Stats, source_for
from trimtab.stream.fold import Folded, Measure, Progress, fold, layer_groups
from trimtab.stream.machine import known_machine
from trimtab.stream.measures import (
    bytes_per_layer,
    finish_bytes,
    first_pass,
    layer_result,
    second_pass,
)
from trimtab.stream.publish import EXPERIMENT, git_commit, publish
from trimtab.stream.scenarios import Scenarios, data_identity, read
from trimtab.stream.session import ray_session
from trimtab.stream.sources import Source, StoreSource
from trimtab.stream.tasks import Task, fill_store, resolved, task
from trimtab.track.mlflow import MlflowTracker, prepare_store, run_exists, sqlite_uri

log = logging.getLogger(__name__)

DIAGNOSIS_VERSION = 1
"""Raised whenever the same configuration begins to give other measures."""


class Outcome(NamedTuple):
    """What a diagnosis leaves behind."""

    diagnoses: list[Diagnosis]
    """One per model, in the order asked for."""
    runs: dict[str, str]
    """Model name -> MLflow run id."""
    table: list[dict[str, Cell]]
    """One row per model: each measure at its best layer."""
    figures: list[Path]
    """All models overlaid, and a matrix of each."""
    tracking_uri: str
    """The MLflow store."""


def diagnose(config: DiagnoseConfig, report: Report = lambda *_: None) -> Outcome:
    """Runs a diagnosis to its end.

    Args:
        config: what to do.
        report: told about progress.

    Raises:
        TrimtabError: something the user can mend.
    """
    out = writable_folder(config.out).resolve()
    config = config.model_copy(update={"out": out})
    uri = prepare_store(config.tracking_uri or sqlite_uri(out))
    scenarios = read(config.data, out, as_released=config.as_released)
    with known_machine() as machine:
        models = resolved(config.models, config, report)
        tasks = [task(spec, scenarios, config, machine) for spec in models]
    _check_streams(tasks, config)
    folders = [_folder(todo, scenarios, config) for todo in tasks]
    all_finished = all(load_diagnosis(folder) for folder in folders)
    diagnoses, runs = [], {}
    with nullcontext() if all_finished else ray_session():
        for todo, folder in zip(tasks, folders, strict=True):
            found = _diagnose_one(todo, folder, scenarios, config, report)
            diagnoses.append(found)
            runs[found.card.label] = publish(
                found,
                config,
                uri,
                lambda name: MlflowTracker(EXPERIMENT, name, uri),
                lambda run_id: run_exists(uri, run_id),
            )
            report(f"{found.card.label}: in MLflow", 1, 1)
    drawn = {found.card.label: found.drawn for found in diagnoses}
    folder = writable_folder(
        out / "summary" / content_hash([str(d.folder.name) for d in diagnoses])
    )
    table = summary(drawn)
    with finished_file(folder / "summary.parquet") as temporary:
        pl.DataFrame(table).write_parquet(temporary)
    return Outcome(diagnoses, runs, table, draw_all(drawn, folder / "figures"), uri)


def _check_streams(tasks: Sequence[Task], config: DiagnoseConfig) -> None:
    streamed = [todo.card.label for todo in tasks if todo.placement.source == "streamed"]
    if streamed and not config.store:
        raise ConfigError(
            "A model whose weights stream needs `store: true`, since without a store every measure "
            f"would read its weights again for every block, but {', '.join(streamed)} streams. "
            "Keep the store, or say `source: resident`."
        )


def _folder(todo: Task, scenarios: Scenarios, config: DiagnoseConfig) -> Path:
    """Where a diagnosis is kept: named by all that decides its numbers."""
    identity = content_hash(
        [
            DIAGNOSIS_VERSION,
            todo.identity,
            data_identity(scenarios, config.data),
            config.measures.model_dump(mode="json"),
            config.as_released,
            todo.card.label,
        ]
    )
    return config.out / "diagnoses" / f"{todo.card.label}-{identity}"


def _diagnose_one(
    todo: Task, folder: Path, scenarios: Scenarios, config: DiagnoseConfig, report: Report
) -> Diagnosis:
    if (finished := load_diagnosis(folder)) is not None:
        log.info("%s is finished and reused: %s", todo.card.label, folder)
        report(f"{todo.card.label}: finished before, reused", 1, 1)
        return finished
    source, stats = _source(todo, scenarios, config, report)
    made = open_store(source.path).manifest.provenance if isinstance(source, StoreSource) else {}
    results, held = _measure(todo, source, config, report)
    found = Diagnosis(
        card=todo.card,
        layers={layer: layer_result(config, named) for layer, named in sorted(results.items())},
        costs=_costs(todo.plan, stats, made.get("held_bytes", held)),
        provenance=_provenance(todo, scenarios, config)
        | {"block_source": made.get("block_source", todo.placement.source)},
        folder=writable_folder(folder),
        reused=False,
    )
    found.save()
    return found


def _source(
    todo: Task, scenarios: Scenarios, config: DiagnoseConfig, report: Report
) -> tuple[Source, Stats | None]:
    """Where the measures read rows from: a finished store, or the model itself."""
    if not config.store:
        return source_for(todo.spec, todo.request, config, todo.placement), None
    path, stats = fill_store(todo, scenarios, config, report)
    return StoreSource(path, config.extract.pooling), stats


def _measure(
    todo: Task, source: Source, config: DiagnoseConfig, report: Report
) -> tuple[dict[int, dict[str, Any]], dict[str, int]]:
    """Both passes over all layers, in groups that fit a worker's memory; and the bytes it held."""
    per_layer = bytes_per_layer(config, todo.card.d_model, todo.plan.num_rows)
    groups = layer_groups(todo.request.layers, per_layer, config.workers.memory_gb)
    if len(groups) > 1:
        log.info(
            "%s: the states of a layer take up to %.1f GB, so %d layers are processed at a time.",
            todo.card.label,
            per_layer / 1e9,
            len(groups[0]),
        )
    held: dict[str, int] = {}
    results: dict[int, dict[str, Any]] = {layer: {} for layer in todo.request.layers}
    for group in groups:
        part = f" (layers {group[0]} to {group[-1]})" if len(groups) > 1 else ""
        for name, choose in (
            ("first pass", lambda _: first_pass(config)),
            ("second pass", lambda layer: second_pass(config, results[layer])),
        ):
            measures = {layer: choose(layer) for layer in group}
            if any(measures.values()):
                stage = f"{todo.card.label}: {name}{part}"
                found = _pass(todo, source, measures, config, _told(report, stage, todo.plan))
                held = found.held
                for layer, named in found.results.items():
                    results[layer] |= named
    return results, held


def _pass(
    todo: Task,
    source: Source,
    measures: dict[int, dict[str, Measure]],
    config: DiagnoseConfig,
    progress: Progress,
) -> Folded:
    if not config.store:
        only = todo.request.model_copy(update={"layers": tuple(measures)})
        source = source_for(todo.spec, only, config, todo.placement)
    at_once = finish_bytes(config, todo.plan.num_rows)
    return fold(todo.plan.blocks, source, measures, config.workers, at_once, progress)


def _told(report: Report, stage: str, plan: Plan) -> Progress:
    return lambda done: report(stage, done, len(plan.blocks))


def _costs(plan: Plan, stats: Stats | None, held: Mapping[str, int]) -> dict[str, float]:
    costs = {
        "extract/rows": float(plan.num_rows),
        "extract/prompts": float(plan.num_prompts),
        "extract/tokens": float(plan.num_tokens),
    }
    if stats is not None and stats.seconds > 0:
        costs["extract/seconds"] = stats.seconds
        costs["extract/tokens_per_second"] = stats.tokens / stats.seconds
    costs |= {f"held_bytes/{precision}": float(size) for precision, size in held.items()}
    if held:
        costs["held_bytes/total"] = float(sum(held.values()))
    return costs


def _provenance(todo: Task, scenarios: Scenarios, config: DiagnoseConfig) -> dict[str, Any]:
    splits = dict(sorted(scenarios.table["split"].value_counts().iter_rows()))
    return {
        "config": content_hash(config.model_dump(mode="json", exclude={"out", "tracking_uri"})),
        "activations": content_hash(todo.identity),
        "data": scenarios.manifest.source,
        "data_hash": data_identity(scenarios, config.data),
        "source": scenarios.manifest.data,
        "profile": {"rows": todo.plan.num_rows, **splits},
        "measured_rows": sum(splits.get(split, 0) for split in config.measures.splits),
        "as_released": config.as_released,
        "placement": todo.placement._asdict(),
        "twin_of": twins.original(todo.card),
        "git_commit": git_commit(),
    }
