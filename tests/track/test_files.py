"""The tracker of plain files, and the recorder: what is logged is what can be read."""

import json
from pathlib import Path

import pytest

from trimtab.core.tracker import Metric, Tracker
from trimtab.track.files import FileTracker
from trimtab.track.recorder import Input, Recorder
from trimtab.track.rules import checked, status

METRICS = [Metric("dimensional/r2", 0.25, 3), Metric("structural/noise", 0.5, 3)]


def log_everything(tracker: Tracker, figure: Path) -> None:
    with tracker:
        tracker.params({"model": "base"})
        tracker.params({"layers": 6})
        tracker.tags({"group": "base"})
        tracker.metrics(METRICS[:1])
        tracker.metrics(METRICS[1:])
        tracker.dataset("corpus", "0123", "corpus.tsv", {"rows": 2400})
        tracker.artifact(figure, "figures")


@pytest.fixture
def figure(tmp_path: Path) -> Path:
    path = tmp_path / "r2.png"
    path.write_bytes(b"png")
    return path


def test_the_files_of_a_run_hold_what_was_logged(tmp_path: Path, figure: Path) -> None:
    tracker = FileTracker(tmp_path / "runs", "trimtab/diagnose", "nursery/base")
    log_everything(tracker, figure)
    assert tracker.path.parent == tmp_path / "runs/trimtab/diagnose"
    assert json.loads((tracker.path / "params.json").read_text()) == {"model": "base", "layers": 6}
    assert json.loads((tracker.path / "tags.json").read_text()) == {"group": "base"}
    lines = (tracker.path / "metrics.jsonl").read_text().splitlines()
    assert [Metric(**json.loads(line)) for line in lines] == METRICS
    assert (tracker.path / "artifacts/figures/r2.png").read_bytes() == b"png"
    run = json.loads((tracker.path / "run.json").read_text())
    assert run["status"] == "FINISHED"
    assert run["datasets"][0] == {
        "name": "corpus",
        "digest": "0123",
        "source": "corpus.tsv",
        "profile": {"rows": 2400},
    }


def test_two_runs_of_one_name_have_two_folders(tmp_path: Path) -> None:
    first, second = (FileTracker(tmp_path, "e", "base") for _ in range(2))
    assert first.path != second.path


def test_a_run_in_plain_files_says_that_it_failed(tmp_path: Path) -> None:
    tracker = FileTracker(tmp_path, "e", "base")
    with pytest.raises(ValueError, match="broken"), tracker:
        raise ValueError("broken")
    assert json.loads((tracker.path / "run.json").read_text())["status"] == "FAILED"


def test_the_recorder_keeps_what_was_logged(figure: Path) -> None:
    recorder = Recorder()
    log_everything(recorder, figure)
    assert recorder.logged_params == {"model": "base", "layers": 6}
    assert recorder.logged_tags == {"group": "base"}
    assert recorder.logged_metrics == METRICS
    assert recorder.inputs == [Input("corpus", "0123", "corpus.tsv", {"rows": 2400})]
    assert recorder.artifacts == [(figure, "figures")]
    assert recorder.status == "FINISHED"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_undefined_value_is_not_logged(value: float) -> None:
    with pytest.raises(AssertionError, match="undefined"):
        checked([Metric("dimensional/r2", value, 0)])


def test_a_metric_that_is_not_listed_is_refused_by_name() -> None:
    with pytest.raises(AssertionError, match="dimensional/r3"):
        Recorder().metrics([Metric("dimensional/r3", 0.0, 0)])


def test_a_run_ends_in_one_of_three_ways() -> None:
    assert [status(kind) for kind in (None, KeyboardInterrupt, SystemExit)] == [
        "FINISHED",
        "KILLED",
        "FAILED",
    ]
