"""What came of a sweep: the table of trials, the best of them, and what mattered.

Trials that ran to their end stand before those that were stopped, for an objective half-way is
not comparable with one at the end; failed ones come last.

Importance: Hutter et al. 2014 (functional ANOVA on a random forest), as Optuna implements it: the
share of the objective's variance over the space that a path explains by itself.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import optuna
import polars as pl

from trimtab.core.config import flat
from trimtab.core.files import finished_file
from trimtab.core.seeds import Seed
from trimtab.sweep.axes import Axis
from trimtab.sweep.journal import Story
from trimtab.sweep.searchers import distribution, inner_of
from trimtab.sweep.spec import Objective

TRIAL: Final = "trial"
POINT: Final = "point/"
"""Prefix of a point's columns."""
_ORDER: Final = {"finished": 0, "stopped": 1, "killed": 2, None: 3, "failed": 4}
_FEWEST: Final = 4
"""Finished trials below which no importance is estimated."""

Row = Mapping[str, Any]
"""A trial: trial, ending, share, objective, `point/PATH`, then its scores by name."""


def table(stories: Sequence[Story], objective: Objective) -> list[Row]:
    """One row per trial, best first, all with the same columns; what is unknown is None."""
    sign = 1 if objective.mode == "min" else -1

    def rank(story: Story) -> tuple[int, bool, float, str]:
        value = story.scores.get(objective.metric)
        return _ORDER[story.ending], value is None, sign * (value or 0.0), story.name

    points = {story.name: flat(story.point) for story in stories}
    paths = sorted({path for point in points.values() for path in point})
    names = sorted({name for story in stories for name in story.scores})
    return [
        {
            TRIAL: story.name,
            "ending": story.ending or "unfinished",
            "share": story.share,
            "objective": story.scores.get(objective.metric),
            **{POINT + path: points[story.name].get(path) for path in paths},
            **{name: story.scores.get(name) for name in names},
            "error": story.error,
        }
        for story in sorted(stories, key=rank)
    ]


def write_table(rows: Sequence[Row], path: Path) -> None:
    """The table as Parquet; a point's value that is no number or word is written as JSON."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for name, values in columns.items():
        if (name.startswith(POINT) and len({type(value) for value in values}) > 1) or any(
            isinstance(value, list | dict) for value in values
        ):
            columns[name] = [json.dumps(value) for value in values]
    with finished_file(path) as temporary:
        pl.DataFrame(columns, infer_schema_length=None).write_parquet(temporary)


def finished(rows: Sequence[Row]) -> list[Row]:
    """The rows of trials that ran to their end."""
    return [row for row in rows if row["ending"] == "finished"]


def importance(
    stories: Sequence[Story], space: Mapping[str, Axis], objective: Objective, seed: Seed
) -> dict[str, float]:
    """How much of the objective's variance each path explains; empty where that is unknown.

    Only finished trials count, at least four of them, and only paths whose value differed.
    """
    ended = [s for s in stories if s.ending == "finished" and objective.metric in s.scores]
    varied = [path for path in space if len({repr(story.point[path]) for story in ended}) > 1]
    values = {story.scores[objective.metric] for story in ended}
    if len(ended) < _FEWEST or not varied or len(values) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    distributions = {path: distribution(space[path]) for path in varied}
    for story in ended:
        inner = {path: inner_of(space[path], story.point[path]) for path in varied}
        value = story.scores[objective.metric]
        study.add_trial(
            optuna.trial.create_trial(params=inner, distributions=distributions, value=value)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(
        seed=seed.child("importance").value % 2**32
    )
    found = evaluator.evaluate(study, params=varied)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other is better than in one way and at least as good in the other; less is
    better in both. In order of the first.
    """
    order = sorted(range(len(points)), key=lambda i: points[i])
    front: list[int] = []
    for i in order:
        if not front or points[i][1] < points[front[-1]][1]:
            front.append(i)
    return front
