"""A trial in its folder, without Ray: taken up where it was, finished once."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_study import STUDY

from trimtab.core.errors import TrainingError
from trimtab.sweep.study import Prepared, Report, study_named
from trimtab.sweep.trial import ARTIFACTS, OUTCOME, Work, trial_folder, work_on

Told = list[tuple[Report, bool, Path | None]]


class StoppedError(Exception):
    pass


@pytest.fixture
def work(tmp_path: Path) -> Callable[..., Work]:
    def build(**base: Any) -> Work:  # noqa: ANN401
        return Work(
            study="fake_study:STUDY",
            base={"steps": 6, "log": str(tmp_path / "log"), **base},
            prepared=Prepared("", None, {}, ("", "", "", {})),
            objective="validation/mse",
            folder=tmp_path,
            save_seconds=0.0,
            num_threads=1,
            num_gpus=0.0,
        )

    return build


def run(work: Work, stop_at: float = 2.0, given: Path | None = None) -> Told:
    told: Told = []

    def tell(report: Report, last: bool, state: Path | None) -> None:
        told.append((report, last, state))
        if report.share >= stop_at:
            raise StoppedError

    with contextlib.suppress(StoppedError):
        work_on(work, "0000", {"x": 1.0}, given, tell)
    return told


def steps(work: Work) -> list[int]:
    return [int(line.split()[1]) for line in Path(work.base["log"]).read_text().splitlines()]


def test_the_fake_is_a_study() -> None:
    assert study_named("fake_study:STUDY") is STUDY


def test_a_trial_tells_every_report_and_its_last_once(work: Callable[..., Work]) -> None:
    told = run(work())
    assert [round(r.share * 6) for r, _, _ in told] == [1, 2, 3, 4, 5, 6, 6]
    assert [last for _, last, _ in told] == [False] * 6 + [True]
    folder = trial_folder(work().folder, "0000")
    assert json.loads((folder / ARTIFACTS / "found.json").read_text())["x"] == 1.0
    assert not (folder / "states").exists()


def test_taken_up_it_repeats_its_last_report_and_no_step(work: Callable[..., Work]) -> None:
    whole = run(work())
    for file in trial_folder(work().folder, "0000").rglob("*.json"):
        file.unlink()
    Path(work().base["log"]).unlink()
    first, then = run(work(), stop_at=0.5), run(work())
    assert then[0][0] == first[-1][0]
    assert [r for r, _, _ in first] + [r for r, _, _ in then[1:]] == [r for r, _, _ in whole]
    assert steps(work()) == [0, 1, 2, 3, 4, 5]


def test_killed_between_two_saves_it_goes_on_from_the_whole_one(work: Callable[..., Work]) -> None:
    run(work(), stop_at=0.5)
    folder = trial_folder(work().folder, "0000")
    (folder / "states" / "4").mkdir()
    (folder / "states" / "4" / "state.txt").write_text("half")
    assert run(work())[0][0].share == pytest.approx(0.5)
    assert steps(work()) == [0, 1, 2, 3, 4, 5]


def test_a_trial_that_had_finished_only_tells_its_last_report(work: Callable[..., Work]) -> None:
    whole = run(work())
    again = run(work())
    assert again == [(whole[-1][0], True, None)]
    assert len(steps(work())) == 6


def test_only_the_newest_state_is_kept(work: Callable[..., Work]) -> None:
    run(work(), stop_at=0.6)
    folder = trial_folder(work().folder, "0000")
    assert [path.name for path in (folder / "states").iterdir()] == ["4"]


def test_another_trials_state_can_be_given(work: Callable[..., Work], tmp_path: Path) -> None:
    state = run(work(), stop_at=0.5)[-1][2]
    assert state is not None
    given = state.rename(tmp_path / "given")
    (trial_folder(tmp_path, "0000") / "state.json").unlink()
    assert [round(r.share * 6) for r, _, _ in run(work(), given=given)] == [3, 4, 5, 6, 6]


def test_saving_waits_for_its_time(work: Callable[..., Work]) -> None:
    patient = work()
    patient = Work(**{**vars(patient), "save_seconds": 1000.0})
    run(patient, stop_at=0.9)
    assert not (trial_folder(patient.folder, "0000") / "state.json").exists()


def test_what_a_trial_raises_is_passed_on_and_nothing_is_finished(
    work: Callable[..., Work],
) -> None:
    with pytest.raises(TrainingError, match="step 2"):
        run(work(failing={"1": 2}))
    assert not (trial_folder(work().folder, "0000") / OUTCOME).exists()


def test_an_objective_that_is_not_a_number_is_a_failure(work: Callable[..., Work]) -> None:
    with pytest.raises(AssertionError, match="finite"):
        run(work(rate=float("inf")))
