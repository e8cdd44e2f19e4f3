"""Who chooses the next trial's point: a list made beforehand, or Optuna's estimator.

Neither knows Ray. A searcher that is told about finished trials again, in the same order, stands
where it stood: that is how an interrupted sweep goes on.

Bergstra et al. 2011 (TPE), as Optuna implements it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from trimtab.sweep.axes import Axis, Choice, Grid, Integer, LogUniform, Range, Uniform
from trimtab.sweep.journal import Story
from trimtab.sweep.space import Point
from trimtab.sweep.spec import Objective

_STEPS: Final = 1000
"""Optuna counts steps in whole numbers: a share in thousandths."""


@runtime_checkable
class Searcher(Protocol):
    """Chooses points."""

    def ask(self, name: str) -> Point | None:
        """The point of the trial of this name; None when there is no other."""
        ...

    def again(self, story: Story) -> None:
        """A trial of an earlier call that is to go on counts as asked for."""
        ...

    def tell(self, story: Story) -> None:
        """How a trial ended, asked for now or in an earlier call."""
        ...


class ListSearcher:
    """Points that are known beforehand, by the number of the trial."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points

    def ask(self, name: str) -> Point | None:
        """See `Searcher`."""
        number = int(name)
        return self._points[number] if number < len(self._points) else None

    def again(self, story: Story) -> None:
        """See `Searcher`; nothing to learn."""

    def tell(self, story: Story) -> None:
        """See `Searcher`; nothing to learn."""


class OptunaSearcher:
    """Tree-structured Parzen estimator: more of what was good, less of what was bad."""

    def __init__(
        self, space: Mapping[str, Axis], objective: Objective, num_trials: int, seed: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._metric = objective.metric
        self._num_trials = num_trials
        self._distributions = {path: distribution(axis) for path, axis in space.items()}
        self._asked: dict[str, optuna.trial.Trial] = {}
        # A trial that is running counts as a bad one, so that two at once are not the same point.
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True)
        direction = "minimize" if objective.mode == "min" else "maximize"
        self._study = optuna.create_study(sampler=sampler, direction=direction)

    def ask(self, name: str) -> Point | None:
        """See `Searcher`."""
        if int(name) >= self._num_trials:
            return None
        trial = self._study.ask(fixed_distributions=self._distributions)
        self._asked[name] = trial
        return {path: value_of(self._space[path], trial.params[path]) for path in self._space}

    def again(self, story: Story) -> None:
        """See `Searcher`."""
        inner = {path: inner_of(self._space[path], story.point[path]) for path in self._space}
        self._study.enqueue_trial(inner)
        self._asked[story.name] = self._study.ask(fixed_distributions=self._distributions)

    def tell(self, story: Story) -> None:
        """See `Searcher`; a trial that was stopped counts by how far it came."""
        if story.name not in self._asked:
            self.again(story)
        trial = self._asked.pop(story.name)
        value = story.scores.get(self._metric)
        if story.ending == "finished" and value is not None:
            self._study.tell(trial, value)
        elif story.ending == "failed" or value is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            trial.report(value, round(story.share * _STEPS))
            self._study.tell(trial, state=TrialState.PRUNED)


def distribution(axis: Axis) -> BaseDistribution:
    """What Optuna draws from; one of some values is drawn by its place, for it may be a list."""
    match axis:
        case Uniform():
            return FloatDistribution(*axis.uniform)
        case LogUniform():
            return FloatDistribution(*axis.loguniform, log=True)
        case Integer():
            return IntDistribution(*axis.int)
        case Choice():
            return CategoricalDistribution(range(len(axis.choice)))
        case Grid() | Range():
            return CategoricalDistribution(range(len(axis.values)))


def value_of(axis: Axis, drawn: Any) -> Any:  # noqa: ANN401 (values are of any kind)
    """The value that Optuna's means."""
    values = _values(axis)
    return drawn if values is None else values[drawn]


def inner_of(axis: Axis, value: Any) -> Any:  # noqa: ANN401
    """What Optuna calls a value."""
    values = _values(axis)
    return value if values is None else list(values).index(value)


def _values(axis: Axis) -> Sequence[Any] | None:
    match axis:
        case Choice():
            return axis.choice
        case Grid() | Range():
            return axis.values
        case _:
            return None
