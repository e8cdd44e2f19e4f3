"""MLflow: one run of a tracking server, or of a SQLite file where there is none.

`prepare_store` is called once by the driver, before workers start: it picks the store, proves that
it answers, creates its tables (3 to 5 s the first time) and the experiments. `MlflowTracker` then
writes one run through a client of its own: no active run, no global tracking URI, so that several
runs can be open in one process.

A report is one `log_batch` (per 1,000 metrics: 0.2 s into SQLite), never a call per metric. A run
may be the child of another one, and an interrupted one is opened again by its id; `find_runs` says
which ids there are.
"""

import json
import logging
import os
import shlex
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

# MLflow reports its use to its makers from a background thread unless told not to before it is
# imported. Runs here may concern sensitive data, or have no network: off unless the user says on.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow import entities as ml
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from trimtab.core.errors import TrackError
from trimtab.core.files import writable_folder
from trimtab.core.lock import locked
from trimtab.core.tracker import Metric
from trimtab.track.rules import checked, status

EXPERIMENTS: Final = ("trimtab/diagnose", "trimtab/sae", "trimtab/steer")
"""The experiment of each job."""
LOCK: Final = ".mlflow.lock"
"""Beside a SQLite store: held while its tables are made."""

_PARENT: Final = "mlflow.parentRunId"
_RUNS_PER_CALL: Final = 1000
_METRICS_PER_CALL: Final = 1000
_PARAMS_PER_CALL: Final = 100
_PARAM_LENGTH: Final = 6000
_DIGEST_LENGTH: Final = 36
_IMPATIENT: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
}
_SQLITE: Final = "sqlite:///"


def sqlite_uri(runs: Path) -> str:
    """The tracking URI of the default store: `mlflow.db` in the folder of runs."""
    return f"{_SQLITE}{runs.resolve() / 'mlflow.db'}"


def prepare_store(uri: str, experiments: Sequence[str] = EXPERIMENTS) -> str:
    """Makes a tracking store ready to be written to, and returns its URI.

    Args:
        uri: a server, or `sqlite_uri(folder)`. The variable MLFLOW_TRACKING_URI wins when set.
        experiments: created where they do not exist. Those of a SQLite store keep their
            artifacts in `mlartifacts` beside the database.

    Raises:
        TrackError: the server or file does not answer; known within about 5 s.
        OutputError: the folder of the SQLite file cannot be written.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or uri
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    folder = _sqlite_folder(uri)
    if folder is None:
        _make_ready(uri, None, experiments)
        return uri
    # Two processes that make the tables of one SQLite file at a time are in each other's way.
    with locked(writable_folder(folder) / LOCK, f"The MLflow store in {folder}", wait=True):
        _make_ready(uri, folder, experiments)
    return uri


def _make_ready(uri: str, folder: Path | None, experiments: Sequence[str]) -> None:
    probe(uri)
    with _translated(uri):
        client = MlflowClient(tracking_uri=uri)
        for name in experiments:
            if client.get_experiment_by_name(name) is None:
                where = (folder / "mlartifacts" / name).as_uri() if folder else None
                client.create_experiment(name, artifact_location=where)


def probe(uri: str) -> None:
    """Asks a tracking store whether it answers.

    Raises:
        TrackError: it does not, or not within about 5 s.
    """
    with _translated(uri), _impatient():
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def run_exists(uri: str, run_id: str) -> bool:
    """Whether a tracking store has a run, and has not deleted it.

    Raises:
        TrackError: the store does not answer.
    """
    with _translated(uri):
        try:
            run = MlflowClient(tracking_uri=uri).get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
    return run.info.lifecycle_stage == "active"


class Found(NamedTuple):
    """A run that is in a store."""

    run_id: str
    """MLflow's id."""
    name: str
    """What the UI shows."""
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    parent: str
    """The id of its parent run; empty if it has none."""
    tags: dict[str, str]
    """Ours; MLflow's own are left out."""
    params: dict[str, str]
    """As they were logged."""
    metrics: dict[str, float]
    """The last value of each."""


def find_runs(uri: str, experiment: str, tags: Mapping[str, str]) -> list[Found]:
    """The runs of an experiment that have these tags, oldest first.

    Args:
        tags: names of letters, digits and underscores; all must match.

    Raises:
        TrackError: the store does not answer.
    """
    query = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
    return list(search_runs(uri, query, (experiment,)))


def search_runs(
    uri: str,
    query: str = "",
    experiments: Sequence[str] = EXPERIMENTS,
    order: Literal["ASC", "DESC"] = "ASC",
) -> Iterator[Found]:
    """The runs that MLflow's search finds, by the time of their start; read as they are taken.

    Args:
        query: MLflow's `filter_string`; the empty one finds every run.
        experiments: names; one that is not there has no runs.
        order: oldest or newest first.

    Raises:
        TrackError: the store does not answer.
    """
    with _translated(uri):
        client = MlflowClient(tracking_uri=uri)
        found = [client.get_experiment_by_name(name) for name in experiments]
        ids = [one.experiment_id for one in found if one is not None]
        token = None if ids else ""
        while token != "":
            page = client.search_runs(
                ids,
                query,
                max_results=_RUNS_PER_CALL,
                order_by=[f"attributes.start_time {order}"],
                page_token=token,
            )
            yield from map(_found, page)
            token = page.token or ""


def _found(run: ml.Run) -> Found:
    tags = run.data.tags
    return Found(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        parent=tags.get(_PARENT, ""),
        tags={name: value for name, value in tags.items() if not name.startswith("mlflow.")},
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
    )


def ui_command(uri: str) -> str:
    """The shell line that opens the MLflow UI on a store."""
    if uri.startswith(("http://", "https://")):
        return shlex.join([sys.executable, "-m", "webbrowser", uri])
    return shlex.join([sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri])


class MlflowTracker:
    """One MLflow run. See `trimtab.core.tracker.Tracker` for what each method means."""

    def __init__(
        self,
        experiment: str,
        run_name: str,
        uri: str,
        run_id: str = "",
        *,
        tags: Mapping[str, str] | None = None,
        parent: str = "",
    ) -> None:
        """Names the run; it is created when the tracker is entered.

        Args:
            experiment: one that `prepare_store` was given.
            run_name: what the UI shows.
            uri: what `prepare_store` returned.
            run_id: of a run that was begun before, to be gone on with.
            tags: set in the call that creates the run, so that it can be found from then on.
            parent: the id of the run that this one is shown below.
        """
        self._experiment = experiment
        self._run_name = run_name
        self._uri = uri
        self._tags = dict(tags or {}) | ({_PARENT: parent} if parent else {})
        self.run_id = run_id
        """MLflow's id of the run; empty until the tracker is entered."""
        with _translated(uri):
            self._client = MlflowClient(tracking_uri=uri)

    def params(self, params: Mapping[str, object]) -> None:
        """See `Tracker`. MLflow keeps 6,000 characters of a value; a longer one is cut."""
        pairs = [ml.Param(name, str(value)[:_PARAM_LENGTH]) for name, value in params.items()]
        with _translated(self._uri):
            for some in _parts(pairs, _PARAMS_PER_CALL):
                self._client.log_batch(self.run_id, params=some)

    def tags(self, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""
        pairs = [ml.RunTag(name, value) for name, value in tags.items()]
        with _translated(self._uri):
            self._client.log_batch(self.run_id, tags=pairs)

    def metrics(self, metrics: Sequence[Metric]) -> None:
        """See `Tracker`."""
        now = time.time_ns() // 1_000_000
        values = [ml.Metric(m.name, m.value, now, m.step) for m in checked(metrics)]
        with _translated(self._uri):
            for some in _parts(values, _METRICS_PER_CALL):
                self._client.log_batch(self.run_id, metrics=some)

    def dataset(self, name: str, digest: str, source: str, profile: Mapping[str, int]) -> None:
        """See `Tracker`. MLflow keeps 36 characters of the digest."""
        dataset = ml.Dataset(
            name=name,
            digest=digest[:_DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(dict(profile)),
        )
        context = [ml.InputTag("mlflow.data.context", self._experiment.rpartition("/")[2])]
        with _translated(self._uri):
            self._client.log_inputs(self.run_id, [ml.DatasetInput(dataset, context)])

    def artifact(self, path: Path, folder: str) -> None:
        """See `Tracker`."""
        assert path.is_file(), f"an artifact must be a finished file, but {path} is not there"
        with _translated(self._uri):
            self._client.log_artifact(self.run_id, str(path), folder)

    def __enter__(self) -> "MlflowTracker":
        with _translated(self._uri):
            if self.run_id:
                self._client.update_run(self.run_id, status="RUNNING")
                return self
            experiment = self._client.get_experiment_by_name(self._experiment)
            assert experiment is not None, f"prepare_store must create {self._experiment} first"
            run = self._client.create_run(
                experiment.experiment_id, tags=self._tags, run_name=self._run_name
            )
            self.run_id = run.info.run_id
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.end(status(kind))

    def end(self, state: str) -> None:
        """Closes the run as FINISHED, FAILED or KILLED."""
        with _translated(self._uri):
            self._client.set_terminated(self.run_id, state)


def _sqlite_folder(uri: str) -> Path | None:
    return Path(uri.removeprefix(_SQLITE)).resolve().parent if uri.startswith(_SQLITE) else None


def _parts(values: list[Any], size: int) -> Iterator[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


@contextmanager
def _impatient() -> Iterator[None]:
    # MLflow retries a silent server for minutes, which suits a run but not the question whether
    # anybody is there. It reads these at every request and has no other way to be told.
    before = {name: os.environ.get(name) for name in _IMPATIENT}
    os.environ.update(_IMPATIENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        way_out = (
            "Move that file away (a new one is made) or choose another folder."
            if uri.startswith(_SQLITE)
            else "Start the server (`mlflow server`), correct MLFLOW_TRACKING_URI, or unset it to "
            "log to a SQLite file instead."
        )
        why = str(error).partition("\n")[0].rstrip(".")
        message = f"The MLflow store {uri} does not do what it is asked: {why}. {way_out}"
        password, at, _ = urllib.parse.urlsplit(uri).netloc.rpartition("@")
        raise TrackError(message.replace(password + at, "") if at else message) from error
