"""A study without a model: a quadratic with curves, that fails, dies or waits on demand."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, PositiveInt

from trimtab.core.config import Config
from trimtab.core.errors import ConfigError, JudgeError, TrainingError
from trimtab.core.files import write_json
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report as Progress
from trimtab.core.tracker import Metric
from trimtab.sweep.study import OWN, UNANSWERED, Estimate, Prepared, Report, report


class Quadratic(Config):
    """Descends (x - 3)^2 + y^2 from y = 1."""

    x: float = 0.0
    rate: float = 0.1
    steps: PositiveInt = 10
    layer: int = 0
    seconds: float = 0.0
    """Of each step."""
    failing: dict[str, int] = Field(default_factory=dict)
    """x -> step at which its trial raises."""
    dying: dict[str, int] = Field(default_factory=dict)
    """x -> step at which the process of its trial is killed, the first time."""
    away: str = ""
    """While this file is there, a trial's third step cannot reach what it needs."""
    quiet: str = ""
    """While this file is there, a trial is not told all that it asks, and is worse for it."""
    log: str = ""
    """File that gets a line `x step` for every step that is worked."""


class FakeRunning:
    def __init__(self, trial: Quadratic) -> None:
        self.trial = trial
        self.step = 0
        self.y = 1.0

    def load(self, folder: Path) -> None:
        step, y = (folder / "state.txt").read_text().split()
        self.step, self.y = int(step), float(y)

    def save(self, folder: Path) -> None:
        (folder / "state.txt").write_text(f"{self.step} {self.y!r}")

    def reports(self) -> Iterator[Report]:
        while self.step < self.trial.steps:
            self._work()
            yield report(self.step / self.trial.steps, self._metrics("validation/mse"))

    def finish(self, folder: Path) -> Report:
        write_json(folder / "found.json", {"x": self.trial.x, "y": self.y})
        if not self.trial.quiet:
            return report(1.0, [*self._metrics("sae/mse"), Metric("sae/l0", abs(self.trial.x), 2)])
        missing = float(Path(self.trial.quiet).exists())
        told = [Metric("sae/mse", missing, self.step), Metric("sae/l0", 1.0, 2)]
        return report(1.0, [*told, Metric(UNANSWERED, missing, self.step)])

    def _work(self) -> None:
        trial = self.trial
        if trial.log:
            with Path(trial.log).open("a") as file:
                file.write(f"{trial.x:g} {self.step}\n")
        name = f"{trial.x:g}"
        if self.step == trial.failing.get(name):
            raise TrainingError(f"step {self.step} is where it was told to fail")
        if self.step == 2 and trial.away and Path(trial.away).exists():
            raise JudgeError("nobody answers")
        marker = Path(f"{trial.log}.died-{name}")
        if self.step == trial.dying.get(name) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(trial.seconds)
        self.y *= 1 - trial.rate
        self.step += 1

    def _metrics(self, name: str) -> list[Metric]:
        return [Metric(name, (self.trial.x - 3) ** 2 + self.y**2, self.step)]


class FakeStudy:
    experiment = "trimtab/sae"
    kind = Quadratic
    curve = frozenset({"validation/mse"})
    final = frozenset({"sae/mse", "sae/l0"})
    live = frozenset({"rate"})

    def survey(self, base: Quadratic, out: Path) -> int:
        return 4

    def check(self, trial: Quadratic, facts: int) -> None:
        if trial.layer >= facts:
            raise ConfigError(f"`layer < 4` must hold, but got layer={trial.layer}")

    def estimate(self, trial: Quadratic, facts: int) -> Estimate:
        return Estimate(10**6, trial.steps * trial.seconds, 100, "a step a second")

    def prepare(self, base: Quadratic, out: Path, report: Progress) -> Prepared:
        report("prepare", 1, 1)
        return Prepared(content_hash("data"), None, {"model": "none"}, ("d", "0", "s", {"rows": 1}))

    def runs(self, trial: Quadratic) -> Mapping[str, Mapping[str, object]]:
        return {OWN: {}}

    def start(self, trial: Quadratic, prepared: Prepared, device: torch.device) -> FakeRunning:
        return FakeRunning(trial)

    def closing(self, trials: Sequence[Mapping[str, Any]]) -> None:
        pass

    def figures(self, trials: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
        return []


STUDY = FakeStudy()
