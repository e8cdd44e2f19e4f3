import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import entities as ml

from trimtab.core.tracker import Metric
from trimtab.track.mlflow import Found, MlflowTracker, _found

Run = Callable[..., Any]
RATE = "evaluation/win_rate"


def log(uri: str, name: str, metrics: dict[str, float], parent: str = "", **params: object) -> str:
    with MlflowTracker("trimtab/steer", name, uri, parent=parent) as tracker:
        tracker.params(params)
        tracker.metrics([Metric(metric, value, 0) for metric, value in metrics.items()])
    return tracker.run_id


@pytest.fixture(scope="module")
def sweep(tracking: str) -> list[str]:
    """A sweep of two trials, and a run beside it."""
    parent = log(tracking, "steer 1a2b", {})
    ends = {f"{RATE}_low/all": 0.4, f"{RATE}_high/all": 0.8}
    one = log(tracking, "trial-0", {f"{RATE}/all": 0.61, **ends}, parent, layer=3, alpha=0.1)
    two = log(tracking, "trial-1", {f"{RATE}/all": 0.7}, parent, layer=3, alpha=0.5)
    other = log(tracking, "alone", {"fluency/perplexity": 12.0})
    return [parent, one, two, other]


def test_a_sweep_stands_for_its_trials_beside_other_runs(run: Run, sweep: list[str]) -> None:
    result = run("compare", "steer 1a2b", sweep[3][:8])
    assert result.code == 0
    lines = [line.split() for line in result.out.splitlines() if line.strip()]
    assert lines[0][:3] == ["Run", "layer", "alpha"]
    rows = {line[0]: line[1:] for line in lines[1:]}
    assert rows["trial-0"] == ["3", "0.1", "0.610", "[0.400,", "0.800]", "–"]
    assert rows["trial-1"] == ["3", "0.5", "0.700", "–"]
    assert rows["alone"] == ["–", "–", "–", "12"]
    assert "steer" not in rows


def test_what_is_the_same_in_all_is_no_column(run: Run, sweep: list[str]) -> None:
    result = run("compare", "trial-0", "trial-1")
    assert result.out.split()[:2] == ["Run", "alpha"]


def test_json_holds_every_number_and_runs_come_once(run: Run, sweep: list[str]) -> None:
    result = run("compare", "trial-0", sweep[1], "steer 1a2b", "--json", "--sort", f"{RATE}/all")
    rows = json.loads(result.out)
    assert [row["name"] for row in rows] == ["trial-1", "trial-0"]
    assert rows[1]["metrics"][f"{RATE}_low/all"] == 0.4
    assert rows[1]["params"] == {"layer": "3", "alpha": "0.1"}


def test_a_metric_asked_for_is_a_column(run: Run, sweep: list[str]) -> None:
    result = run("compare", "trial-0", "--metric", f"{RATE}_low/all")
    assert "0.400" in result.out.splitlines()[-1].split()[-1]


def test_a_run_that_is_not_there_names_the_newest(run: Run, sweep: list[str]) -> None:
    result = run("compare", "nobody")
    assert result.code == 2
    assert "There is no run 'nobody'. The newest: alone, steer 1a2b" in result.err
    assert "trial-0" not in result.err
    assert "`trimtab compare` alone lists all of them." in result.err


@pytest.mark.parametrize("name", ["steer", "STEER 1A", "steer 1a2c"])
def test_or_those_near_it(run: Run, sweep: list[str], name: str) -> None:
    result = run("compare", name)
    assert result.code == 2
    assert f"There is no run {name!r}. Near it: steer 1a2b. " in result.err


@pytest.mark.parametrize("name", ["it's", 'a "b"', 'it\'s "b"', "x' or '1' = '1", "%", "______"])
def test_a_name_is_never_part_of_the_question(run: Run, sweep: list[str], name: str) -> None:
    result = run("compare", name)
    assert (result.code, result.out) == (2, "")
    assert "There is no run" in result.err


def test_a_name_with_quotes_is_found(run: Run, tracking: str, sweep: list[str]) -> None:
    for name in ("it's", 'a "b"'):
        log(tracking, name, {"fluency/perplexity": 3.0})
        assert json.loads(run("compare", name, "--json").out)[0]["name"] == name


def test_without_a_name_runs_are_listed_the_newest_first(run: Run, sweep: list[str]) -> None:
    parent, *_, other = sweep
    listed = json.loads(run("compare", "--json").out)
    ours = [row["run_id"] for row in listed if row["run_id"] in sweep]
    assert ours == [other, parent]
    assert parent[:8] in run("compare").out


def test_a_question_reads_no_other_run(
    run: Run, sweep: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def watched(found: ml.Run) -> Found:
        read.append(found.info.run_id)
        return _found(found)

    monkeypatch.setattr("trimtab.track.mlflow._found", watched)
    assert run("compare", "steer 1a2b").code == 0
    assert sorted(read) == sorted(sweep[:3])


def test_a_metric_that_no_run_has_names_its_neighbours(run: Run, sweep: list[str]) -> None:
    result = run("compare", "alone", "--sort", "perplexity")
    assert result.code == 2
    assert "Near it: fluency/perplexity" in result.err


def test_looking_makes_no_store(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = run("compare", "x", "--out", tmp_path)
    assert result.code == 2
    assert "it has no mlflow.db" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(30)
def test_a_server_that_is_not_there_is_not_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        result = run("compare", "x")
    assert result.code == 2
    assert f"error: The MLflow store {uri} does not" in result.err


def test_what_does_not_fit_stands_below_and_nothing_is_cut(run: Run, tracking: str) -> None:
    whole = {f"{name}/all": 0.123 for name in ("evaluation/safety", "evaluation/emotion", RATE)}
    ends = {name.replace("/all", f"_{e}/all"): 0.123 for name in whole for e in ("low", "high")}
    fluent = {f"fluency/{name}": 0.456 for name in ("perplexity", "repetition", "empty")}
    log(tracking, "wide", whole | ends | fluent | {"steer/strength": 0.789})
    lines = run("compare", "wide", "--metric", "steer/strength").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("Run") for line in lines) == 2
    rows = " ".join(line.removeprefix("wide") for line in lines if line.startswith("wide")).split()
    assert rows == 3 * ["0.123", "[0.123,", "0.123]"] + 3 * ["0.456"] + ["0.789"]
