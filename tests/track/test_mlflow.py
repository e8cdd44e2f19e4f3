"""The MLflow tracker, read back through MLflow's own client from a SQLite file."""

import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, Run

from trimtab.core.errors import TrackError
from trimtab.core.tracker import Metric, Tracker
from trimtab.track.mlflow import MlflowTracker, find_runs, prepare_store, sqlite_uri, ui_command

EXPERIMENT = "trimtab/diagnose"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One prepared store for the file: making its tables takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return prepare_store(sqlite_uri(tmp_path_factory.mktemp("runs")))


def written(tracker: MlflowTracker, uri: str) -> Run:
    return MlflowClient(tracking_uri=uri).get_run(tracker.run_id)


def logged_dataset(run: Run) -> Dataset:
    assert run.inputs is not None
    (data,) = run.inputs.dataset_inputs
    return data.dataset


def test_a_run_that_was_cut_short_is_gone_on_with(uri: str) -> None:
    first = MlflowTracker(EXPERIMENT, "cut", uri)
    first.__enter__()
    first.metrics([Metric("dimensional/r2", 0.1, 0)])
    first.__exit__(KeyboardInterrupt)
    assert written(first, uri).info.status == "KILLED"
    with MlflowTracker(EXPERIMENT, "cut", uri, first.run_id) as second:
        assert written(second, uri).info.status == "RUNNING"
        second.metrics([Metric("dimensional/r2", 0.2, 1)])
    assert second.run_id == first.run_id
    assert written(second, uri).info.status == "FINISHED"
    client = MlflowClient(tracking_uri=uri)
    history = client.get_metric_history(second.run_id, "dimensional/r2")
    assert [(m.step, m.value) for m in history] == [(0, 0.1), (1, 0.2)]


def test_what_is_logged_is_what_mlflow_has(uri: str, tmp_path: Path) -> None:
    figure = tmp_path / "r2.png"
    figure.write_bytes(b"png")
    with MlflowTracker(EXPERIMENT, "nursery/base", uri) as tracker:
        tracker.params({"model": "base", "layers": 6})
        tracker.tags({"group": "base"})
        tracker.metrics([Metric("dimensional/r2", 0.1 * k, k) for k in range(3)])
        tracker.dataset("corpus", "0123", "corpus.tsv", {"rows": 2400})
        tracker.artifact(figure, "figures")

    run = written(tracker, uri)
    assert (run.info.run_name, run.info.status) == ("nursery/base", "FINISHED")
    assert run.data.params == {"model": "base", "layers": "6"}
    assert run.data.tags["group"] == "base"
    client = MlflowClient(tracking_uri=uri)
    history = client.get_metric_history(tracker.run_id, "dimensional/r2")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    data = logged_dataset(run)
    assert (data.name, data.digest) == ("corpus", "0123")
    assert data.profile == '{"rows": 2400}'
    downloaded = client.download_artifacts(tracker.run_id, "figures/r2.png", str(tmp_path))
    assert Path(downloaded).read_bytes() == b"png"


def test_a_tracker_is_one_before_it_is_entered(uri: str) -> None:
    assert isinstance(MlflowTracker(EXPERIMENT, "not yet", uri), Tracker)


def test_more_than_one_call_holds_is_split(uri: str) -> None:
    with MlflowTracker(EXPERIMENT, "large", uri) as tracker:
        tracker.params({f"key-{i}": i for i in range(201)})
        tracker.metrics([Metric("structural/noise", i / 2000, i) for i in range(2001)])
    run = written(tracker, uri)
    assert len(run.data.params) == 201
    history = MlflowClient(tracking_uri=uri).get_metric_history(tracker.run_id, "structural/noise")
    assert [m.step for m in history] == list(range(2001))


def test_values_that_are_too_long_for_mlflow_are_cut(uri: str) -> None:
    with MlflowTracker(EXPERIMENT, "long", uri) as tracker:
        tracker.params({"config": "x" * 7000})
        tracker.dataset("corpus", "ab" * 32, "corpus.tsv", {})
    run = written(tracker, uri)
    assert run.data.params["config"] == "x" * 6000
    assert logged_dataset(run).digest == "ab" * 18


@pytest.mark.parametrize(
    ("exception", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_that_an_exception_leaves_is_closed_as_such(
    uri: str, exception: type[BaseException], status: str
) -> None:
    tracker = MlflowTracker(EXPERIMENT, "broken", uri)
    with pytest.raises(exception), tracker:
        raise exception
    assert written(tracker, uri).info.status == status


def test_preparing_twice_keeps_the_experiment_and_its_artifacts_beside_the_database(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri=uri)
    before = client.get_experiment_by_name(EXPERIMENT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert prepare_store("sqlite:///ignored.db") == uri
    after = client.get_experiment_by_name(EXPERIMENT)
    assert before is not None
    assert after is not None
    assert after.experiment_id == before.experiment_id
    folder = Path(uri.removeprefix("sqlite:///")).parent
    assert after.artifact_location == (folder / "mlartifacts" / EXPERIMENT).as_uri()


def test_two_processes_make_one_new_store(tmp_path: Path) -> None:
    say = "import sys; from trimtab.track.mlflow import prepare_store; prepare_store(sys.argv[1])"
    line = [sys.executable, "-c", say, sqlite_uri(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen(line, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    said = [one.communicate(timeout=120)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], said


def test_a_server_that_nobody_runs_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(TrackError, match=rf"http://127.0.0.1:{port} .*Start the server") as caught:
        prepare_store(f"http://someone:secret@127.0.0.1:{port}")
    assert time.monotonic() - start < 10
    assert "secret" not in str(caught.value)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_file_that_is_not_a_database_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_text("not a database " * 100)
    with pytest.raises(TrackError, match=r"mlflow\.db .*not a database.*Move that file away"):
        prepare_store(sqlite_uri(tmp_path))


def test_the_ui_command_names_the_store() -> None:
    local = shlex.split(ui_command("sqlite:////a folder/mlflow.db"))
    assert local[1:] == [
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        "sqlite:////a folder/mlflow.db",
    ]
    assert ui_command("http://host:5000").endswith("-m webbrowser http://host:5000")


def test_a_child_is_found_by_the_tags_that_it_was_created_with(uri: str) -> None:
    with MlflowTracker(EXPERIMENT, "parent", uri, tags={"sweep": "abc"}) as parent:
        tags = {"sweep": "abc", "trial": "0000"}
        with MlflowTracker(EXPERIMENT, "child", uri, tags=tags, parent=parent.run_id) as child:
            child.params({"x": 1})
            child.metrics([Metric("dimensional/r2", 0.5, 3)])
    first, second = find_runs(uri, EXPERIMENT, {"sweep": "abc"})
    assert (first.run_id, first.parent) == (parent.run_id, "")
    assert (second.run_id, second.parent, second.name) == (child.run_id, parent.run_id, "child")
    assert (second.tags, second.params) == (tags, {"x": "1"})
    assert (second.metrics, second.status) == ({"dimensional/r2": 0.5}, "FINISHED")
    assert find_runs(uri, EXPERIMENT, {"sweep": "other"}) == []
    assert find_runs(uri, "no/such", {"sweep": "abc"}) == []
