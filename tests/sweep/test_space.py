"""Axes, points, and trials built from them before any starts."""

from collections.abc import Callable

import pytest
from fake_study import STUDY, Quadratic
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import ConfigError
from trimtab.core.seeds import Seed
from trimtab.sweep.axes import Choice, Grid, Integer, LogUniform, Range, Uniform
from trimtab.sweep.space import (
    check_objective,
    checked_trials,
    drawn_points,
    grid_points,
    known_points,
    trial_record,
)
from trimtab.sweep.spec import SweepConfig
from trimtab.sweep.study import study_named

Configure = Callable[..., SweepConfig]


def test_a_grid_is_every_combination_and_the_last_path_changes_fastest() -> None:
    space = {"a": Grid(grid=(1, 2)), "b": Range(range=(0.0, 1.0, 0.5))}
    assert [tuple(point.values()) for point in grid_points(space)] == [
        (1, 0.0),
        (1, 0.5),
        (1, 1.0),
        (2, 0.0),
        (2, 0.5),
        (2, 1.0),
    ]


@pytest.mark.parametrize(
    ("ends", "values"),
    [
        ((0.0, 0.3, 0.1), (0.0, 0.1, 0.2, pytest.approx(0.3))),
        ((1.0, 6.0, 2.0), (1, 3, 5)),
        ((2.0, 2.0, 1.0), (2,)),
    ],
)
def test_a_range_includes_its_end_where_a_step_meets_it(ends: tuple, values: tuple) -> None:
    assert Range(range=ends).values == values


@given(st.integers(0, 2**32), st.integers(0, 40))
def test_what_is_drawn_lies_within_its_axis(seed: int, number: int) -> None:
    space = {
        "u": Uniform(uniform=(-1.0, 2.0)),
        "l": LogUniform(loguniform=(1e-5, 1e-2)),
        "i": Integer(int=(3, 5)),
        "c": Choice(choice=("a", [1, 2])),
    }
    point = drawn_points(space, number + 1, Seed(seed))[number]
    assert -1 <= point["u"] <= 2
    assert 1e-5 <= point["l"] <= 1e-2
    assert point["i"] in (3, 4, 5)
    assert point["c"] in ("a", [1, 2])


def test_the_same_seed_draws_the_same_and_another_axis_shifts_none() -> None:
    one = {"u": Uniform(uniform=(0.0, 1.0))}
    two = {"first": Integer(int=(0, 9)), **one}
    assert drawn_points(one, 5, Seed(1)) == drawn_points(one, 5, Seed(1))
    assert [p["u"] for p in drawn_points(two, 5, Seed(1))] == [
        p["u"] for p in drawn_points(one, 5, Seed(1))
    ]
    assert drawn_points(one, 5, Seed(1)) != drawn_points(one, 5, Seed(2))


def test_every_ends_of_whole_numbers_is_drawn() -> None:
    points = drawn_points({"i": Integer(int=(0, 2))}, 60, Seed(0))
    assert {point["i"] for point in points} == {0, 1, 2}


def test_listed_values_are_taken_in_turn_where_others_are_drawn() -> None:
    space = {"g": Grid(grid=(1, 2, 3)), "u": Uniform(uniform=(0.0, 1.0))}
    assert [p["g"] for p in drawn_points(space, 7, Seed(0))] == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize(
    ("axis", "says"),
    [
        ({"uniform": [2, 1]}, "low <= high"),
        ({"int": [5, 1]}, "low <= high"),
        ({"range": [3, 1, 1]}, "low <= high"),
        ({"loguniform": [0, 1]}, "low > 0"),
        ({"range": [0, 1, 0]}, "step > 0"),
        ({"uniform": [0, float("inf")]}, "finite"),
        ({"grid": []}, "at least 1"),
        ({"choice": []}, "at least 1"),
        ({"gird": [1]}, "one of `grid`"),
        ({"grid": [1], "choice": [1]}, "only one"),
        (3, "one of `grid`"),
    ],
)
def test_an_axis_that_cannot_be_is_refused_by_its_path(
    configure: Configure, axis: object, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        configure(space={"rate": axis})
    assert "space.rate" in str(caught.value)


def test_a_number_that_yaml_reads_as_a_word_is_a_number(configure: Configure) -> None:
    assert configure(space={"rate": {"grid": ["1e-4", "b"]}}).space["rate"] == Grid(
        grid=(1e-4, "b")
    )


def test_a_value_that_is_a_record_is_laid_over_the_base() -> None:
    from trimtab.stream.train_config import SaeJob

    base = {
        "model": {"id": "nursery:base"},
        "train": {"coder": {"width": 64, "k": 8}, "epochs": 3},
    }
    trial = trial_record(SaeJob, base, {"train": {"coder": {"kind": "relu"}, "target_l0": 4}})
    assert (trial.train.coder.kind, trial.train.coder.width) == ("relu", 64)
    assert (trial.train.target_l0, trial.train.epochs) == (4, 3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"space": {"ratte": {"grid": [1]}}}, "ratte.*did you mean `rate`"),
        ({"space": {"x.inner": {"grid": [1]}}, "base": {"x": 1.0}}, "goes through `x`"),
        ({"space": {"steps": {"grid": [5, 0]}}}, "steps"),
        ({"space": {"layer": {"grid": [0, 9]}}}, "layer < 4"),
        (
            {"space": {"rate": {"uniform": [0, 1]}}, "budget": {"searcher": "grid"}},
            "`grid` can only list",
        ),
        ({"space": {"rate": {"uniform": [0, 1]}}, "budget": {}}, "num_trials` is required"),
        ({"budget": {"searcher": "optuna"}}, "num_trials` is required"),
        ({"budget": {"searcher": "grid", "num_trials": 3}}, "4 points.*is 3"),
        (
            {"budget": {"scheduler": {"kind": "pbt"}}},
            "none of x can be changed",
        ),
    ],
)
def test_a_sweep_with_a_trial_that_cannot_be_is_refused(
    configure: Configure, fields: dict, says: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){says}"):
        checked_trials(configure(**fields), STUDY, 4)


@pytest.mark.parametrize("field", [{"searcher": "optuna", "num_trials": 4}, {"concurrency": 2}])
def test_a_population_is_neither_searched_by_a_learner_nor_begun_in_part(
    configure: Configure, field: dict
) -> None:
    (name,) = field.keys() - {"num_trials"}
    with pytest.raises(ConfigError, match=f"(?s)`pbt`.*{name}"):
        configure(budget={"scheduler": {"kind": "pbt"}} | field)


def test_points_that_optuna_would_choose_are_stood_for_by_twenty(configure: Configure) -> None:
    space = {"layer": {"int": [0, 9]}}
    config = configure(space=space, budget={"searcher": "optuna", "num_trials": 2})
    assert known_points(config) is None
    with pytest.raises(ConfigError, match="layer < 4"):
        checked_trials(config, STUDY, 4)
    assert len(checked_trials(config, STUDY, 10)) == 20


@pytest.mark.parametrize(
    ("metric", "scheduler", "says"),
    [
        ("validation/mze", "none", "no trial.*validation/mse.*sae/l0"),
        ("sae/mse", "asha", "only at a trial's end.*validation/mse"),
    ],
)
def test_an_objective_that_nobody_reports_in_time_is_refused(
    configure: Configure, metric: str, scheduler: str, says: str
) -> None:
    config = configure(
        objective={"metric": metric, "mode": "min"}, budget={"scheduler": {"kind": scheduler}}
    )
    with pytest.raises(ConfigError, match=f"(?s){says}"):
        check_objective(config, STUDY)


def test_a_trial_is_the_base_with_its_point() -> None:
    trial = trial_record(Quadratic, {"steps": 7}, {"x": 2})
    assert (trial.steps, trial.x) == (7, 2.0)


@pytest.mark.parametrize("name", ["sea", "no.such:STUDY", "math:pi"])
def test_a_study_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        study_named(name)


def test_what_may_change_between_two_calls_does_not_rename_the_sweep(configure: Configure) -> None:
    one = configure()
    free = {"concurrency": 7, "hours": 2, "retries": 5, "save_seconds": 9}
    other = configure(keep=3, budget={"searcher": "grid", **free})
    assert one.identity == other.identity
    assert one.identity != configure(budget={"searcher": "grid", "seed": 1}).identity
