"""Who is stopped early: Ray Tune's schedulers, told about earlier calls of the same sweep.

Tune restores trials but not what its scheduler knows, so a restored ASHA would judge the first
trials of every call by nobody. Here a scheduler goes by the trials' own names and is told every
report again, in the order they came, before the first trial of a call starts.
"""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final

from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from trimtab.sweep.axes import Axis, Choice, Grid, Integer, LogUniform, Range, Uniform
from trimtab.sweep.spec import Asha, Objective, Pbt, Scheduler
from trimtab.sweep.study import Report

OBJECTIVE: Final = "objective"
"""What Tune calls the objective in a result."""
SHARE: Final = "share"
"""What Tune calls how far a trial has come."""


def scheduler_of(
    kind: Scheduler,
    objective: Objective,
    space: Mapping[str, Axis],
    live: frozenset[str],
    past: Iterable[tuple[str, Report]],
) -> TrialScheduler:
    """A scheduler that stands where it stood after these reports.

    Args:
        kind: which, and its settings.
        objective: what it compares.
        space: the sweep's.
        live: paths that may change while a trial runs.
        past: (trial, report) of earlier calls, in the order they came.
    """
    match kind:
        case Asha():
            asha = NamedAsha(kind, objective)
            asha.replay(past, objective.metric)
            return asha
        case Pbt():
            return _Population(
                time_attr=SHARE,
                perturbation_interval=kind.interval,
                quantile_fraction=kind.quantile,
                hyperparam_mutations={
                    "point": {path: _mutation(space[path]) for path in sorted(live & set(space))}
                },
                custom_explore_fn=_Within({path: space[path] for path in live & set(space)}),
                log_config=False,
                require_attrs=False,  # a last report may hold no objective
                metric=OBJECTIVE,
                mode=objective.mode,
            )
        case _:
            return FIFOScheduler()


def rungs(kind: Asha) -> list[float]:
    """Shares of a trial at which it may be stopped, ascending.

    The end counts as the rung after the last, so there is none close before it, where stopping
    would save little and leave nothing finished.
    """
    found = [kind.grace]
    while found[-1] * kind.reduction**2 <= 1 + 1e-9:
        found.append(found[-1] * kind.reduction)
    return found


def expected_share(kind: Scheduler) -> float:
    """How much of all trials' work is done if every rung passes on just one in `reduction`."""
    if not isinstance(kind, Asha):
        return 1.0
    ends = [*rungs(kind), 1.0]
    lengths = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    return sum(length / kind.reduction**i for i, length in enumerate(lengths))


class NamedAsha(ASHAScheduler):
    """ASHA that knows trials by the names that they keep from call to call."""

    def __init__(self, kind: Asha, objective: Objective) -> None:
        last = rungs(kind)[-1]
        super().__init__(
            time_attr=SHARE,
            metric=OBJECTIVE,
            mode=objective.mode,
            # Above the last rung and below the one after it; a trial that gets there goes on to
            # its end, where its final evaluation is.
            max_t=last * kind.reduction**0.5,  # pyright: ignore[reportArgumentType]
            # Tune multiplies its way from rung to rung: .1 x 3 is above a share of .3.
            grace_period=kind.grace * (1 - 1e-9),  # pyright: ignore[reportArgumentType]
            reduction_factor=kind.reduction,
            stop_last_trials=False,
        )

    def replay(self, past: Iterable[tuple[str, Report]], metric: str) -> None:
        """Hears what it would have heard in earlier calls."""
        for name, report in past:
            trial: Any = SimpleNamespace(trial_id=name)
            if name not in self._trial_info:
                super().on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
            if metric in report.scores and report.share < 1:
                result = {SHARE: report.share, OBJECTIVE: report.scores[metric]}
                super().on_trial_result(None, trial, result)  # pyright: ignore[reportArgumentType]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401 (Tune's own)
        """See Tune."""
        super().on_trial_add(tune_controller, _named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ANN401
        """See Tune. A trial that is through is not stopped before its final evaluation."""
        if result[SHARE] >= 1:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, _named(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:  # noqa: ANN401
        """See Tune."""
        super().on_trial_complete(tune_controller, _named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401
        """See Tune."""
        super().on_trial_remove(tune_controller, _named(trial))


def _named(trial: Any) -> Any:  # noqa: ANN401
    return SimpleNamespace(trial_id=trial.config["name"])


class _Population(PopulationBasedTraining):
    """Takes trials from a list that a searcher hands out.

    Tune refuses every searcher here, for one that learns would be told of points that it did not
    choose. Ours does not learn (`Budget` sees to that).
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401, ARG002
        """See Tune, which looks at the searcher only."""
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)  # pyright: ignore[reportArgumentType]

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], Any]:  # noqa: ANN401
        """The better trial's values, changed; the name stays one's own."""
        config, operations = super()._get_new_config(trial, trial_to_clone)
        return config | {"name": trial.config["name"]}, operations


class _Within:
    """Keeps what population based training multiplies by 0.8 or 1.2 within its axis."""

    def __init__(self, space: Mapping[str, Axis]) -> None:
        self._space = dict(space)

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        point = dict(config["point"])
        for path, axis in self._space.items():
            match axis:
                case Uniform(uniform=(low, high)) | LogUniform(loguniform=(low, high)):
                    point[path] = min(max(point[path], low), high)
                case Integer(int=(low, high)):
                    point[path] = min(max(round(point[path]), low), high)
                case _:
                    pass
        return config | {"point": point}


def _mutation(axis: Axis) -> Any:  # noqa: ANN401 (Tune takes domains and lists)
    match axis:
        case Uniform():
            return tune.uniform(*axis.uniform)
        case LogUniform():
            return tune.loguniform(*axis.loguniform)
        case Integer():
            return tune.randint(axis.int[0], axis.int[1] + 1)
        case Choice():
            return list(axis.choice)
        case Grid() | Range():
            return list(axis.values)
