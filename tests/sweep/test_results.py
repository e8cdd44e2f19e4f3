"""What came of a sweep: order, importance, Pareto front."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.seeds import Seed
from trimtab.sweep.axes import Choice, Uniform
from trimtab.sweep.journal import Ending, Story
from trimtab.sweep.results import importance, pareto, table, write_table
from trimtab.sweep.spec import Objective
from trimtab.sweep.study import Report

LEAST = Objective(metric="m", mode="min")


def story(name: str, ending: Ending | None, value: float | None, **point: object) -> Story:
    reports = [] if value is None else [Report(1.0, {}, {"m": value})]
    return Story(name, point, reports, ending)


def test_finished_trials_come_first_then_by_objective() -> None:
    stories = [
        story("0000", "failed", 0.0),
        story("0001", "stopped", 0.1),
        story("0002", "finished", 0.9),
        story("0003", "finished", 0.2),
        story("0004", "killed", None),
    ]
    found = [row["trial"] for row in table(stories, LEAST)]
    assert found == ["0003", "0002", "0001", "0004", "0000"]
    most = table(stories, Objective(metric="m", mode="max"))
    assert [row["trial"] for row in most][:2] == ["0002", "0003"]


def test_the_table_reads_back_whatever_the_values_are(tmp_path: Path) -> None:
    stories = [
        story("0000", "finished", 1.0, layers=[1, 2], k=3),
        story("0001", "failed", None, layers=[3], k=5, train={"kind": "relu"}),
    ]
    write_table(table(stories, LEAST), tmp_path / "t.parquet")
    found = pl.read_parquet(tmp_path / "t.parquet")
    assert found["point/layers"].to_list() == ["[1, 2]", "[3]"]
    assert found["point/k"].to_list() == [3, 5]
    assert found["point/train.kind"].to_list() == ["null", '"relu"']
    assert found["objective"].to_list() == [1.0, None]


def test_what_the_objective_follows_is_important_and_the_same_twice() -> None:
    draw = np.random.default_rng(0)
    space = {
        "x": Uniform(uniform=(0.0, 1.0)),
        "c": Choice(choice=([1], [2])),
        "same": Choice(choice=(1,)),
    }
    stories = [
        story(f"{i:04d}", "finished", float(10 * x), x=float(x), c=[1 + i % 2], same=1)
        for i, x in enumerate(draw.uniform(size=30))
    ]
    found = importance(stories, space, LEAST, Seed(0))
    assert list(found) == ["x", "c"]
    assert found["x"] > 0.9
    assert found == importance(stories, space, LEAST, Seed(0))


@pytest.mark.parametrize("num", [0, 3])
def test_too_few_trials_tell_nothing(num: int) -> None:
    stories = [story(str(i), "finished", float(i), x=float(i)) for i in range(num)]
    assert importance(stories, {"x": Uniform(uniform=(0.0, 9.0))}, LEAST, Seed(0)) == {}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_no_point_beats_one_on_the_front_and_one_there_beats_every_other(
    whole: list[tuple[int, int]],
) -> None:
    points = [(float(x), float(y)) for x, y in whole]
    front = [points[i] for i in pareto(points)]
    for x, y in points:
        beaten = [(a, b) for a, b in front if a <= x and b <= y]
        assert beaten
        if (x, y) in front:
            assert beaten == [(x, y)]
