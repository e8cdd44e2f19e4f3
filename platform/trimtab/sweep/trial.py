"""One trial, in its process: begun, gone on with, reported, saved, finished. Without Ray.

A trial has a folder of its own in the sweep's, which outlives the process:

    states/N/           the study's saved state after the Nth save; only the newest is kept
    state.json          which of them is whole, and the report that it was saved at
    artifacts/          what `finish` wrote
    outcome.json        the last report; written last

A state is whole before the report that it belongs to is told, so a trial that is taken up again
tells that report once more and misses none. A trial that had finished only tells its last report.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from trimtab.core.files import write_json
from trimtab.sweep.space import Point, trial_record
from trimtab.sweep.study import Prepared, Report, Running, study_named
from trimtab.sweep.wire import packed, unpacked

STATE: Final = "state.json"
OUTCOME: Final = "outcome.json"
ARTIFACTS: Final = "artifacts"


@dataclass(frozen=True)
class Work:
    """What every trial of a sweep is told."""

    study: str
    """The study's name."""
    base: Mapping[str, Any]
    """A whole trial, before a point's values are put in."""
    prepared: Prepared
    """What all trials share."""
    objective: str
    """The score that every report must have, once it is known along the way."""
    folder: Path
    """The sweep's."""
    save_seconds: float
    """Least seconds between two saved states."""
    num_threads: int
    """Compute threads of a trial."""
    num_gpus: float
    """0 runs on the CPU."""
    checkpoints: bool = False
    """Hand saved states to Tune too: population based training copies them between trials."""


Tell = Callable[[Report, bool, Path | None], None]
"""Told (report, whether it is the last, the state it was saved at if it was)."""


def trial_folder(sweep: Path, name: str) -> Path:
    """Where a trial keeps what it makes."""
    return sweep / "trials" / name


def work_on(work: Work, name: str, point: Point, given: Path | None, tell: Tell) -> None:
    """Runs a trial to its end, from where it had come to.

    Args:
        work: what the sweep says.
        name: the trial's number.
        point: its values.
        given: a state to begin from instead of its own: another trial's (`pbt`).
        tell: told every report.

    Raises:
        TrimtabError: the trial cannot go on.
    """
    folder = trial_folder(work.folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / OUTCOME).is_file():
        tell(unpacked(_read(folder / OUTCOME)), True, None)
        return
    torch.set_num_threads(work.num_threads)
    study = study_named(work.study)
    trial = trial_record(study.kind, work.base, point)
    device = torch.device("cuda" if work.num_gpus > 0 else "cpu")
    running = study.start(trial, work.prepared, device)
    states = _States(folder, work.save_seconds)
    if last := states.load(running, given):
        tell(last, False, states.newest)
    for report in running.reports():
        if work.objective in study.curve:
            _check(report, work.objective)
        saved = states.save(running, report)
        tell(report, False, saved)
    last = _finish(running, folder)
    if work.objective in study.final:
        _check(last, work.objective)
    write_json(folder / OUTCOME, packed(last))
    states.clear()
    tell(last, True, None)


class _States:
    """The saved states of one trial."""

    def __init__(self, folder: Path, save_seconds: float) -> None:
        self._folder = folder
        self._save_seconds = save_seconds
        self._last_save = time.monotonic()
        self._number = 0

    @property
    def newest(self) -> Path:
        return self._folder / "states" / str(self._number)

    def load(self, running: Running, given: Path | None) -> Report | None:
        """Takes up the newest state, and returns the report that it was saved at."""
        path = self._folder / STATE
        if path.is_file():
            self._number = _read(path)["number"]
        if given is not None:
            self._keep(lambda folder: shutil.copytree(given, folder, dirs_exist_ok=True))
        elif not path.is_file():
            return None
        running.load(self.newest)
        return unpacked(_read(self.newest / "report.json"))

    def save(self, running: Running, report: Report) -> Path | None:
        """Saves, if it is time to."""
        if time.monotonic() - self._last_save < self._save_seconds:
            return None

        def write(folder: Path) -> None:
            running.save(folder)
            write_json(folder / "report.json", packed(report))

        self._keep(write)
        self._last_save = time.monotonic()
        return self.newest

    def _keep(self, write: Callable[[Path], object]) -> None:
        """Makes what is written into a new folder the newest state, and drops the others."""
        self._number += 1
        shutil.rmtree(self.newest, ignore_errors=True)
        self.newest.mkdir(parents=True)
        write(self.newest)
        write_json(self._folder / STATE, {"number": self._number})
        for old in self.newest.parent.iterdir():
            if old != self.newest:
                shutil.rmtree(old, ignore_errors=True)

    def clear(self) -> None:
        (self._folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(self._folder / "states", ignore_errors=True)


def _finish(running: Running, folder: Path) -> Report:
    target, unfinished = folder / ARTIFACTS, folder / "artifacts.part"
    for old in (target, unfinished):
        shutil.rmtree(old, ignore_errors=True)
    unfinished.mkdir()
    last = running.finish(unfinished)
    unfinished.rename(target)
    return last


def _check(report: Report, objective: str) -> None:
    value = report.scores.get(objective)
    assert value is not None, f"a report must hold the objective {objective!r}: {report.scores}"
    assert math.isfinite(value), f"the objective {objective!r} must be finite, but is {value}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))
