"""One run for one training: what is logged when, and never twice."""

from pathlib import Path

import pytest

from trimtab.core.tracker import Metric
from trimtab.stream.curves import Point, by_metric, load_curves, over_layers, points, save_curves
from trimtab.stream.train_log import TrainLog
from trimtab.track.recorder import Recorder

KNOWN = ({"kind": "topk"}, {"train.epochs": 3}, ("corpus", "0123", "corpus.tsv", {"train": 9}))


class Store:
    """A tracking store that remembers its runs."""

    def __init__(self) -> None:
        self.runs: dict[str, Recorder] = {}

    def log(self, folder: Path, uri: str = "one") -> TrainLog:
        return TrainLog(folder, uri, self.tracker, self.runs.__contains__)

    def tracker(self, run_id: str) -> Recorder:
        run_id = run_id or f"run-{len(self.runs)}"
        return self.runs.setdefault(run_id, Recorder(run_id))


def point(step: int, layer: int = 0, value: float = 1.0) -> Point:
    return Point(step, layer, "train/loss", value)


def test_a_curve_is_the_mean_over_layers_by_step() -> None:
    curves = [point(50, 0, 1.0), point(50, 3, 2.0), point(100, 0, 5.0), point(100, 3, 6.0)]
    assert over_layers(curves) == [Metric("train/loss", 1.5, 50), Metric("train/loss", 5.5, 100)]
    assert by_metric(curves) == {"train/loss": {0: {50: 1.0, 100: 5.0}, 3: {50: 2.0, 100: 6.0}}}


def test_what_was_undefined_is_no_point_of_the_curve() -> None:
    reported = {0: {"train/loss": 1.0, "validation/fvu": float("nan")}}
    assert list(points(50, reported)) == [point(50)]


@pytest.mark.parametrize("curves", [[], [point(50), point(100, 3, 0.1)]])
def test_a_curve_comes_back_as_it_was(curves: list[Point], tmp_path: Path) -> None:
    save_curves(tmp_path / "curves.parquet", curves)
    assert load_curves(tmp_path / "curves.parquet") == curves


def test_a_training_in_one_go_is_one_run(tmp_path: Path) -> None:
    store = Store()
    figure = tmp_path / "learning.png"
    figure.write_bytes(b"png")
    log = store.log(tmp_path)
    with log:
        log.begin(*KNOWN)
        log.follow([point(50)])
        log.follow([point(50), point(100)])
        log.finish({2: {"sae/fvu": 0.1}}, [(figure, "figures")])
    (run,) = store.runs.values()
    assert run.status == "FINISHED"
    assert [(m.name, m.step) for m in run.logged_metrics] == [
        ("train/loss", 50),
        ("train/loss", 100),
        ("sae/fvu", 2),
    ]
    assert run.logged_tags == KNOWN[0]
    assert run.artifacts == [(figure, "figures")]
    assert store.log(tmp_path).finished


def test_a_training_that_was_cut_short_goes_on_in_its_run_and_repeats_no_step(
    tmp_path: Path,
) -> None:
    store = Store()
    log = store.log(tmp_path)
    log.__enter__()
    log.begin(*KNOWN)
    log.follow([point(50), point(100)])
    log.__exit__(KeyboardInterrupt)  # and the checkpoint was that of step 50
    assert store.runs["run-0"].status == "KILLED"
    assert not store.log(tmp_path).finished
    with store.log(tmp_path) as log:
        log.begin(*KNOWN)
        log.follow([point(50), point(100), point(150)])
        log.finish({}, [])
    (run,) = store.runs.values()
    assert [m.step for m in run.logged_metrics] == [50, 100, 150]
    assert len(run.inputs) == 1


def test_another_store_gets_the_whole_run_and_a_deleted_one_is_written_anew(
    tmp_path: Path,
) -> None:
    one, other = Store(), Store()
    for store, uri in ((one, "one"), (other, "other")):
        log = store.log(tmp_path, uri)
        assert not log.finished
        with log:
            log.begin(*KNOWN)
            log.follow([point(50)])
            log.finish({}, [])
    assert len(one.runs) == len(other.runs) == 1
    assert one.log(tmp_path, "one").finished
    one.runs.clear()
    assert not one.log(tmp_path, "one").finished
    assert one.log(tmp_path, "one").run_id == ""
