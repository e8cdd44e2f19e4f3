"""From a space to trials: every point is built as a trial's own record before any trial starts.

A point is a mapping from dotted path to value; a value that is a record is laid over the base's, so
that fields which belong together can be one axis. What is listed (`grid`, `range`) is crossed; what is
drawn comes from the sweep's seed by path and number, so that adding an axis leaves the other axes'
draws as they were. Where a searcher chooses points as it goes (optuna), 20 drawn ones stand for them.
"""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from trimtab.core.config import AnyConfig, build, flat
from trimtab.core.errors import ConfigError
from trimtab.core.seeds import Seed
from trimtab.sweep.axes import Axis, Grid, Range
from trimtab.sweep.spec import Pbt, SweepConfig
from trimtab.sweep.study import Study

Point = Mapping[str, Any]
"""Dotted path into the base -> value."""

NUM_SAMPLES: Final = 20
"""Points that stand for a space that cannot be enumerated."""


def num_grid_points(space: Mapping[str, Axis]) -> int:
    """Combinations of what is listed."""
    return math.prod(len(axis.values) for axis in space.values() if isinstance(axis, Grid | Range))


def grid_points(space: Mapping[str, Axis]) -> Iterator[dict[str, Any]]:
    """Every combination of what is listed; the last path changes fastest."""
    listed = {path: axis for path, axis in space.items() if isinstance(axis, Grid | Range)}
    for values in itertools.product(*(axis.values for axis in listed.values())):
        yield dict(zip(listed, values, strict=True))


def drawn_points(space: Mapping[str, Axis], num_points: int, seed: Seed) -> list[dict[str, Any]]:
    """Points whose drawn values are drawn, and whose listed ones are taken in turn."""
    grid = list(itertools.islice(grid_points(space), num_points))
    return [_draw(space, grid[i % len(grid)], seed, i) for i in range(num_points)]


def known_points(config: SweepConfig) -> list[dict[str, Any]] | None:
    """The points of all trials; None where the searcher chooses them as it goes.

    Raises:
        ConfigError: too few or too many trials for the searcher, or an axis it cannot list.
    """
    budget, space = config.budget, config.space
    size = num_grid_points(space)
    drawn = [path for path, axis in space.items() if not isinstance(axis, Grid | Range)]
    if budget.searcher == "grid" and drawn:
        raise ConfigError(
            f"The searcher `grid` can only list values, but {', '.join(drawn)} "
            "must be drawn. Say `grid` or `range` there, or choose the searcher `random`."
        )
    if budget.num_trials is None and (drawn or budget.searcher == "optuna"):
        raise ConfigError(
            "`budget.num_trials` is required where values are drawn or chosen: the searcher is "
            f"`{budget.searcher}`" + (f" and draws {', '.join(drawn)}." if drawn else ".")
        )
    num_trials = budget.num_trials or size
    if budget.searcher == "grid" and num_trials != size:
        raise ConfigError(
            f"The grid has {size} points, but `budget.num_trials` is {num_trials}. Leave it out to "
            "run them all, or choose the searcher `random`, which takes them in turn."
        )
    if budget.searcher == "optuna":
        return None
    return drawn_points(space, num_trials, Seed(budget.seed).child("space"))


def trial_record(kind: type[AnyConfig], base: Mapping[str, Any], point: Point) -> AnyConfig:
    """The record of a trial: the base with a point's values put in.

    Raises:
        ConfigError: a path that the record does not have, or a value it does not allow.
    """
    tree = copy.deepcopy(dict(base))
    for path, value in flat(point).items():
        _put(tree, path, value)
    said = ", ".join(f"{path}={value}" for path, value in point.items())
    return build(kind, tree, where=f"the trial {said}" if said else "`base`")


def checked_trials(config: SweepConfig, study: Study[Any], facts: Any) -> list[Any]:  # noqa: ANN401
    """The record of every trial that is known, or of points that stand for them.

    Raises:
        ConfigError: a point that cannot be a trial.
    """
    points = known_points(config)
    if points is None:
        seed = Seed(config.budget.seed).child("samples")
        points = drawn_points(config.space, NUM_SAMPLES, seed)
    _check_perturbed(config, study)
    trials = [trial_record(study.kind, config.base, point) for point in points]
    for trial in trials:
        study.check(trial, facts)
    return trials


def check_objective(config: SweepConfig, study: Study[Any]) -> None:
    """Refuses an objective that no trial would report when it is needed.

    Raises:
        ConfigError: the metric is not reported, or only at a trial's end where that is too late.
    """
    metric, scheduler = config.objective.metric, config.budget.scheduler
    if metric not in study.curve | study.final:
        raise ConfigError(
            f"`objective.metric` is {metric!r}, which no trial of the study `{config.study}` "
            f"reports. Along the way: {_listed(study.curve)}. At the end: {_listed(study.final)}."
        )
    if scheduler.kind != "none" and metric not in study.curve:
        raise ConfigError(
            f"The scheduler `{scheduler.kind}` compares trials along the way, but {metric!r} is "
            f"known only at a trial's end. Reported along the way: {_listed(study.curve)}."
        )


def _check_perturbed(config: SweepConfig, study: Study[Any]) -> None:
    if isinstance(config.budget.scheduler, Pbt) and not set(config.space) & study.live:
        raise ConfigError(
            "The scheduler `pbt` changes settings while trials run, but none of "
            f"{', '.join(config.space)} can be changed then. Sweep one of {_listed(study.live)}."
        )


def _draw(space: Mapping[str, Axis], listed: Point, seed: Seed, i: int) -> dict[str, Any]:
    return {
        path: listed[path]
        if isinstance(axis, Grid | Range)
        else axis.draw(seed.child(path).child(str(i)).numpy())
        for path, axis in space.items()
    }


def _put(tree: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"The path `{path}` of `space` goes through `{parent}`, a value.")
    tree[last] = value


def _listed(names: Sequence[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
