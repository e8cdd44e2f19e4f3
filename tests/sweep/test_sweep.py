"""Whole sweeps of the fake study on a local Ray, read back from MLflow."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from mlflow import MlflowClient

from trimtab.cli.sweep import run_sweep
from trimtab.core.config import build
from trimtab.core.errors import ConfigError
from trimtab.models.hardware import machine_of
from trimtab.sweep import run as driver
from trimtab.sweep.plan import _at_once, plan_sweep
from trimtab.sweep.run import Outcome, sweep
from trimtab.sweep.spec import Budget, Resources, SweepConfig
from trimtab.track.mlflow import Found, find_runs, sqlite_uri

EXPERIMENT = "trimtab/sae"


def config_of(out: Path, uri: str, **fields: Any) -> SweepConfig:  # noqa: ANN401
    tree = {
        "job": "sweep",
        "asks": "Which x is best?",
        "study": "fake_study:STUDY",
        "base": {"steps": 6, "log": str(out / "log")},
        "space": {"x": {"grid": [0, 2, 3, 9]}},
        "objective": {"metric": "validation/mse", "mode": "min"},
        "budget": {"searcher": "grid", "concurrency": 2, "save_seconds": 0},
        "out": out,
        "tracking_uri": uri,
    }
    return build(SweepConfig, tree | fields, where="a test")


def run(config: SweepConfig) -> Outcome:
    return sweep(config, plan_sweep(config, config.out))


def runs_of(outcome: Outcome) -> tuple[Found, dict[str, Found]]:
    """The parent, and the children by trial."""
    digest = outcome.folder.name.rpartition("-")[2]
    found = find_runs(outcome.tracking_uri, EXPERIMENT, {"sweep": digest})
    (parent,) = [one for one in found if not one.parent]
    children = [one for one in found if one.parent]
    assert {child.parent for child in children} == {parent.run_id}
    by_trial = {child.tags["trial"]: child for child in children}
    assert len(by_trial) == len(children)
    return parent, by_trial


def steps_of(log: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in log.read_text().splitlines():
        x, step = line.split()
        found.setdefault(x, []).append(int(step))
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tracking_uri: str) -> SweepConfig:
    out = tmp_path_factory.mktemp("sweep")
    base = {"steps": 6, "log": str(out / "log"), "failing": {"9": 2}, "dying": {"2": 3}}
    return config_of(out, tracking_uri, base=base)


@pytest.fixture(scope="module")
def done(local_ray: None, config: SweepConfig) -> Outcome:
    """One trial fails, the process of another is killed once; looked at by many tests."""
    return run(config)


@pytest.mark.ray
def test_a_failed_trial_is_recorded_and_the_others_go_on(done: Outcome) -> None:
    assert [(row["trial"], row["ending"]) for row in done.rows] == [
        ("0002", "finished"),
        ("0001", "finished"),
        ("0000", "finished"),
        ("0003", "failed"),
    ]
    assert done.rows[-1]["error"].startswith("TrainingError: step 2")
    assert not done.reused


@pytest.mark.ray
def test_a_trial_whose_process_died_goes_on_from_its_state(
    done: Outcome, config: SweepConfig
) -> None:
    steps = steps_of(config.out / "log")
    assert steps["0"] == steps["3"] == [0, 1, 2, 3, 4, 5]
    assert steps["2"] == [0, 1, 2, 3, 3, 4, 5]
    assert steps["9"] == [0, 1, 2, 2]  # tried again, as configured


@pytest.mark.ray
def test_mlflow_has_a_parent_and_a_child_for_each_trial(done: Outcome) -> None:
    parent, children = runs_of(done)
    assert parent.run_id == done.run_id
    assert (parent.status, parent.tags["best_trial"]) == ("FINISHED", "0002")
    assert parent.metrics["sweep/failed"] == 1
    assert parent.metrics["sae/l0"] == 3.0
    assert {name: child.status for name, child in children.items()} == {
        "0000": "FINISHED",
        "0001": "FINISHED",
        "0002": "FINISHED",
        "0003": "FAILED",
    }
    assert children["0003"].tags["error"].startswith("TrainingError: step 2")
    assert children["0001"].params == {"x": "2"}
    assert children["0001"].name == "0001 x=2"


@pytest.mark.ray
def test_a_learning_curve_has_each_step_once_through_a_kill(done: Outcome) -> None:
    client = MlflowClient(tracking_uri=done.tracking_uri)
    for name, child in runs_of(done)[1].items():
        history = client.get_metric_history(child.run_id, "validation/mse")
        assert [m.step for m in history] == ([1, 2] if name == "0003" else [1, 2, 3, 4, 5, 6])


@pytest.mark.ray
def test_artifacts_are_the_best_trials_alone_and_the_parents_summary(done: Outcome) -> None:
    client = MlflowClient(tracking_uri=done.tracking_uri)
    parent, children = runs_of(done)
    kept = {name: client.list_artifacts(child.run_id) for name, child in children.items()}
    assert [name for name, files in kept.items() if files] == ["0002"]
    assert [path.name for path in done.best[0].iterdir()] == ["found.json"]
    assert [path.name for path in (done.folder / "trials").iterdir()] == ["0002"]
    figures = {Path(file.path).name for file in client.list_artifacts(parent.run_id, "figures")}
    assert figures == {"parallel-coordinates.png", "importance.png"}
    table = pl.read_parquet(done.folder / "trials.parquet")
    assert table["point/x"].to_list() == [3, 2, 0, 9]
    assert table["objective"].to_list()[:2] == pytest.approx([0.9**12, 1 + 0.9**12])


@pytest.mark.ray
def test_said_again_nothing_runs_and_the_result_is_the_same(
    done: Outcome, config: SweepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (config.out / "log").read_text(), runs_of(done)
    monkeypatch.setattr(driver, "_run", None)
    again = run(config)
    assert again.reused
    assert (again.rows, again.run_id, again.best) == (done.rows, done.run_id, done.best)
    assert ((config.out / "log").read_text(), runs_of(again)) == before


@pytest.mark.ray
@pytest.mark.slow
def test_another_store_is_told_the_whole_story(
    done: Outcome, config: SweepConfig, tmp_path: Path
) -> None:
    other = run(config.model_copy(update={"tracking_uri": sqlite_uri(tmp_path)}))
    assert other.reused
    parent, children = runs_of(other)
    assert parent.metrics == runs_of(done)[0].metrics
    for name, child in runs_of(done)[1].items():
        assert children[name].metrics == child.metrics
        assert children[name].status == child.status


@pytest.mark.ray
def test_a_trial_that_could_not_reach_its_judge_goes_on_when_the_same_is_said_again(
    local_ray: None, tmp_path: Path, tracking_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    away = tmp_path / "away"
    away.touch()
    base = {"steps": 4, "log": str(tmp_path / "log"), "away": str(away)}
    space = {"x": {"grid": [3, 4]}}
    budget = {"searcher": "grid", "retries": 0}
    config = config_of(tmp_path, tracking_uri, base=base, space=space, budget=budget)
    with pytest.raises(typer.Exit) as over:
        run_sweep(config)
    assert over.value.exit_code == 2
    assert capsys.readouterr().out.count("failed: JudgeError: nobody answers") == 2
    away.unlink()
    outcome = run(config)
    assert not outcome.reused
    assert [(row["ending"], row["error"]) for row in outcome.rows] == [("finished", "")] * 2
    assert {run.status for run in runs_of(outcome)[1].values()} == {"FINISHED"}
    assert run(config).reused


@pytest.mark.ray
def test_a_trial_that_was_not_told_all_is_told_anew_when_the_same_is_said_again(
    local_ray: None, tmp_path: Path, tracking_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    quiet, away = tmp_path / "quiet", tmp_path / "away"
    quiet.touch()
    base = {"steps": 4, "log": str(tmp_path / "log"), "quiet": str(quiet), "away": str(away)}
    budget = {"searcher": "grid", "retries": 0, "scheduler": {"kind": "asha"}, "save_seconds": 0}
    config = config_of(tmp_path, tracking_uri, base=base, space={"x": {"grid": [3]}}, budget=budget)
    first = run(config)
    away.touch()
    still = run(config)
    assert "stands as it did before: JudgeError: nobody answers" in caplog.text
    assert still.rows == first.rows
    assert [file.name for file in still.best[0].iterdir()] == ["found.json"]
    assert runs_of(still)[1]["0000"].status == "FINISHED"
    quiet.unlink()
    away.unlink()
    after = run(config)
    assert not after.reused
    for outcome, missing in ((first, 1.0), (after, 0.0)):
        (row,) = outcome.rows
        assert (row["ending"], row["share"], row["judge/unanswered"]) == ("finished", 1.0, missing)
        assert row["sae/mse"] == missing
    assert {one.run_id for one in (first, still, after)} == {after.run_id}
    parent, children = runs_of(after)
    assert children["0000"].metrics["sae/mse"] == parent.metrics["sae/mse"] == 0.0
    assert run(config).reused


@pytest.mark.ray
def test_asha_stops_trials_early_and_says_so(
    local_ray: None, tmp_path: Path, tracking_uri: str
) -> None:
    config = config_of(
        tmp_path,
        tracking_uri,
        base={"steps": 20, "log": str(tmp_path / "log")},
        space={"x": {"grid": [3, 4, 5, 6, 7, 8]}},
        budget={"searcher": "grid", "concurrency": 1, "scheduler": {"kind": "asha"}},
    )
    outcome = run(config)
    assert [row["ending"] for row in outcome.rows] == ["finished"] + ["stopped"] * 5
    assert {row["share"] for row in outcome.rows[1:]} == {0.1}
    assert all(len(steps_of(tmp_path / "log")[str(x)]) <= 4 for x in (4, 5, 6, 7, 8))
    child = runs_of(outcome)[1]["0005"]
    assert (child.status, child.tags["ending"]) == ("FINISHED", "stopped")


@pytest.mark.ray
def test_optuna_chooses_points_to_the_end(
    local_ray: None, tmp_path: Path, tracking_uri: str
) -> None:
    config = config_of(
        tmp_path,
        tracking_uri,
        base={"steps": 3},
        space={"x": {"choice": [1.0, 2.0]}, "rate": {"loguniform": [0.01, 0.5]}},
        budget={"num_trials": 4, "searcher": "optuna", "concurrency": 1},
    )
    outcome = run(config)
    assert [row["ending"] for row in outcome.rows] == ["finished"] * 4
    assert all(0.01 <= row["point/rate"] <= 0.5 for row in outcome.rows)


@pytest.mark.ray
def test_population_based_training_goes_on_from_the_better_ones(
    local_ray: None, tmp_path: Path, tracking_uri: str
) -> None:
    config = config_of(
        tmp_path,
        tracking_uri,
        base={"x": 3.0, "steps": 8},
        space={"rate": {"grid": [0.0, 0.001, 0.3, 0.4]}},
        budget={
            "searcher": "grid",
            "resources": {"num_cpus": 1.0},  # two at once, so the four take turns
            "scheduler": {"kind": "pbt", "interval": 0.25},
        },
    )
    outcome = run(config)
    assert [row["ending"] for row in outcome.rows] == ["finished"] * 4
    assert {row["share"] for row in outcome.rows} == {1.0}
    # Alone, those of rate 0 and .001 would end at 1 and .98.
    assert all(row["sae/mse"] < 0.9 for row in outcome.rows)


@pytest.mark.ray
def test_what_the_time_limit_stopped_goes_on_with_another(
    local_ray: None, tmp_path: Path, tracking_uri: str
) -> None:
    def limited(seconds: float, concurrency: int) -> Outcome:
        budget = {"searcher": "grid", "save_seconds": 0, "hours": seconds / 3600}
        config = config_of(
            tmp_path,
            tracking_uri,
            base={"steps": 6, "seconds": 0.5, "log": str(tmp_path / "log")},
            space={"x": {"grid": [0, 1, 2]}},
            budget=budget | {"concurrency": concurrency},
        )
        return run(config)

    short = limited(0.5, 2)
    assert [row["ending"] for row in short.rows] == ["killed"] * 2
    assert runs_of(short)[0].metrics["sweep/killed"] == 2
    assert limited(0.5, 2).reused
    again = limited(0.6, 1)  # the second trial has to wait, and does not get to go on
    assert not again.reused
    assert [row["ending"] for row in again.rows] == ["killed"] * 2
    longer = limited(3600.0, 2)
    assert [row["ending"] for row in longer.rows] == ["finished"] * 3
    assert sorted(set(steps_of(tmp_path / "log")["0"])) == list(range(6))
    parent, children = runs_of(longer)
    assert (parent.metrics["sweep/killed"], parent.metrics["sweep/finished"]) == (0, 3)
    assert {child.status for child in children.values()} == {"FINISHED"}


INTERRUPTED = """
import sys
from pathlib import Path
from trimtab.core.config import build, read_yaml
from trimtab.sweep.plan import plan_sweep
from trimtab.sweep.run import sweep
from trimtab.sweep.spec import SweepConfig

config = build(SweepConfig, read_yaml(Path(sys.argv[1])), "a test")
sweep(config, plan_sweep(config, config.out))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_goes_on_where_it_was(
    how: signal.Signals, local_ray: None, tmp_path: Path, tracking_uri: str
) -> None:
    log = tmp_path / "log"
    config = config_of(
        tmp_path,
        tracking_uri,
        base={"steps": 8, "seconds": 0.15, "log": str(log)},
        space={"x": {"grid": [0, 1, 2, 3, 4]}},
    )
    said = tmp_path / "config.yaml"
    said.write_text(config.model_dump_json())
    first = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(said)],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (journal,) = wait_for(lambda: list(tmp_path.glob("sweeps/*/journal.jsonl")), first)
    wait_for(lambda: journal.read_text().count('"ending"') >= 1, first)
    wait_for(lambda: len(log.read_text().splitlines()) >= 18, first)
    os.killpg(first.pid, how)
    assert first.wait(timeout=60) != 0
    time.sleep(1.0)  # its Ray goes down
    before = steps_of(log)

    outcome = run(config)
    after = steps_of(log)
    assert [row["ending"] for row in outcome.rows] == ["finished"] * 5
    begun = {x for x, steps in before.items() if steps}
    assert len(begun) < 5
    for x, steps in after.items():
        assert sorted(set(steps)) == list(range(8))
        again = [step for step, count in Counter(steps).items() if count > 1]
        assert len(again) <= 1  # at most the step that it was interrupted in
        assert len(before.get(x, [])) < 8 or not again  # and none of a finished trial
    client = MlflowClient(tracking_uri=outcome.tracking_uri)
    parent, children = runs_of(outcome)
    assert {one.status for one in (parent, *children.values())} == {"FINISHED"}
    for child in children.values():
        history = client.get_metric_history(child.run_id, "validation/mse")
        assert np.array_equal(np.unique([m.step for m in history]), np.arange(1, 9))
        assert len(history) <= 9


def wait_for(what: Callable[[], Any], process: subprocess.Popen) -> Any:  # noqa: ANN401
    for _ in range(1200):
        assert process.poll() is None, "the sweep ended before it could be killed"
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came to that")


def test_more_than_a_node_has_is_refused() -> None:
    machine = machine_of("h100-80gb:8", 10**12, cores=64)
    four = Budget(resources=Resources(num_cpus=1.0, num_gpus=0.25))
    assert _at_once(four, machine, 64.0) == 32
    for resources, says in (
        (Resources(num_gpus=9.0), "9, and there are 8 GPUs"),
        (Resources(num_cpus=65.0), "65, and there are 64 cores"),
    ):
        with pytest.raises(ConfigError, match=says):
            _at_once(Budget(resources=resources), machine, 64.0)


def test_sharing_a_card_makes_a_sweep_no_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.stream.machine.ray.is_initialized", lambda: False)
    monkeypatch.setattr("trimtab.sweep.plan.ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TRIMTAB_GPU", "h100-80gb:1")
    plans = []
    for num_gpus in (1.0, 0.25):
        budget = {"searcher": "grid", "resources": {"num_gpus": num_gpus}}
        config = config_of(tmp_path, "", base={"seconds": 2.0}, budget=budget)
        plans.append(plan_sweep(config, tmp_path))
    assert [plan.concurrency for plan in plans] == [1, 4]
    assert plans[0].seconds == plans[1].seconds == pytest.approx(4 * 10 * 2)
