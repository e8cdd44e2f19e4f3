"""The demo's five steps, each with the settings of its file under `sweeps/`."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trimtab.cli import demo as module
from trimtab.core.config import load_job, read_yaml
from trimtab.stream.config import DiagnoseConfig
from trimtab.sweep.spec import SweepConfig

SWEEPS = Path(__file__).parents[2] / "sweeps"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What each step was given, in order; the sweep keeps one trial."""
    given: list[Any] = []

    def sweep(config: SweepConfig) -> SimpleNamespace:
        given.append(config)
        return SimpleNamespace(best=[tmp_path / "best"], folder=tmp_path)

    monkeypatch.setattr(module, "run_diagnose", given.append)
    monkeypatch.setattr(module, "run_sweep", sweep)
    monkeypatch.setattr(module, "run_locate", given.append)
    monkeypatch.setattr(module, "run_align", given.append)
    return given


def test_the_demo_goes_all_the_way_with_the_settings_of_its_files(
    run: Callable, steps: list[Any], tmp_path: Path
) -> None:
    run("demo", "--out", tmp_path)
    diagnosis, sae, located, aligned, steer = steps
    where = [f"out={tmp_path}"]
    assert diagnosis == load_job(SWEEPS / "diagnose-demo.yaml", DiagnoseConfig, where)
    assert sae == load_job(SWEEPS / "sae-demo.yaml", SweepConfig, where)
    assert steer == load_job(SWEEPS / "steer-demo.yaml", SweepConfig, where)
    (layer,) = sae.base["layers"]
    for job in (located, aligned):
        assert job.sae == tmp_path / "best" / f"layers.{layer}"
        assert (job.layer, job.model.id) == (layer, sae.base["model"]["id"])
        assert list(job.data.fractions) == sae.base["data"]["fractions"]
    asked = read_yaml(SWEEPS / "align-demo.yaml")["base"]["align"]
    assert aligned.align.unit_scale == asked["unit_scale"]
    assert located.latents.min_rows == aligned.align.latents.min_rows == 15


def test_with_a_model_of_your_own_it_diagnoses_and_says_how_to_go_on(
    run: Callable, steps: list[Any], toy: Path
) -> None:
    out = run("demo", "--model", toy).out
    assert [type(step) for step in steps] == [DiagnoseConfig]
    assert f"trimtab train --model {toy}" in out


def test_a_sweep_without_a_finished_trial_ends_the_demo_with_one_error(
    run: Callable, steps: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        module, "run_sweep", lambda _: SimpleNamespace(best=[], folder=tmp_path / "sweep")
    )
    code, _, err = run("demo", "--out", tmp_path)
    assert code == 2
    assert "No trial of" in err
    assert len(steps) == 1
