"""Who chooses points, and who is stopped early: both stand where they stood after a replay."""

from statistics import median

import pytest

from trimtab.sweep.axes import Choice, Grid, Integer, LogUniform, Range, Uniform
from trimtab.sweep.journal import Story
from trimtab.sweep.schedulers import NamedAsha, expected_share, rungs
from trimtab.sweep.searchers import ListSearcher, OptunaSearcher, inner_of, value_of
from trimtab.sweep.spec import Asha, NoScheduler, Objective
from trimtab.sweep.study import Report

OBJECTIVE = Objective(metric="m", mode="min")
SPACE = {"x": Uniform(uniform=(-5.0, 5.0)), "c": Choice(choice=([1], [2, 3]))}


class Trial:
    """What a scheduler looks at of Tune's trial."""

    def __init__(self, name: str) -> None:
        self.trial_id = f"tune-{name}"
        self.config = {"name": name}


def ended(name: str, point: dict, value: float, ending: str = "finished") -> Story:
    return Story(name, point, [Report(1.0, {}, {"m": value})], ending)  # pyright: ignore[reportArgumentType]


def test_a_list_is_asked_by_the_number_of_the_trial() -> None:
    searcher = ListSearcher([{"x": 1}, {"x": 2}])
    assert searcher.ask("0001") == {"x": 2}
    assert searcher.ask("0002") is None


def test_optuna_comes_closer_to_what_was_good() -> None:
    searcher = OptunaSearcher(SPACE, OBJECTIVE, 60, 0)
    found = []
    for i in range(60):
        point = searcher.ask(f"{i:04d}")
        assert point is not None
        value = (point["x"] - 3) ** 2 + (point["c"] == [1])
        searcher.tell(ended(f"{i:04d}", dict(point), value))
        found.append(value)
    assert searcher.ask("0060") is None
    assert median(found[40:]) < 0.3 * median(found[:10])


def test_optuna_that_is_told_an_earlier_call_goes_on_from_what_it_learnt() -> None:
    past = [ended(f"{i:04d}", {"x": i - 5.0, "c": [1]}, (i - 8.0) ** 2) for i in range(11)]
    failed = Story("0011", {"x": 0.0, "c": [2, 3]}, [], "failed")
    stopped = ended("0012", {"x": -5.0, "c": [1]}, 64.0, "stopped")
    searcher = OptunaSearcher(SPACE, OBJECTIVE, 40, 0)
    for story in (*past, failed, stopped):
        searcher.tell(story)
    searcher.again(Story("0013", {"x": 1.0, "c": [1]}))
    asked = [searcher.ask(f"{i:04d}") for i in range(14, 34)]
    near = [point for point in asked if point is not None and abs(point["x"] - 3) < 1.5]
    assert len(near) > 10
    searcher.tell(ended("0013", {"x": 1.0, "c": [1]}, 4.0))


@pytest.mark.parametrize(
    ("axis", "value", "inner"),
    [
        (Choice(choice=("a", [1, 2])), [1, 2], 1),
        (Grid(grid=(5, 7)), 7, 1),
        (Range(range=(0.0, 1.0, 0.5)), 0.5, 1),
        (Uniform(uniform=(0.0, 1.0)), 0.25, 0.25),
        (LogUniform(loguniform=(0.1, 1.0)), 0.25, 0.25),
        (Integer(int=(0, 3)), 2, 2),
    ],
)
def test_a_value_is_drawn_by_its_place_where_it_is_one_of_some(axis, value, inner) -> None:  # noqa: ANN001
    assert inner_of(axis, value) == inner
    assert value_of(axis, inner) == value


def test_the_rungs_end_one_step_before_the_end() -> None:
    assert rungs(Asha(kind="asha", grace=0.1, reduction=3.0)) == pytest.approx([0.1, 0.3])
    assert rungs(Asha(kind="asha", grace=0.125, reduction=2.0)) == pytest.approx([0.125, 0.25, 0.5])
    assert rungs(Asha(kind="asha", grace=0.5, reduction=4.0)) == [0.5]


def test_the_expected_share_is_the_length_of_each_rung_times_who_reaches_it() -> None:
    asha = Asha(kind="asha", grace=0.1, reduction=3.0)
    assert expected_share(asha) == pytest.approx(0.1 + 0.2 / 3 + 0.7 / 9)
    assert expected_share(NoScheduler()) == 1.0


def asha() -> NamedAsha:
    return NamedAsha(Asha(kind="asha", grace=0.1, reduction=3.0), OBJECTIVE)


def told(scheduler: NamedAsha, name: str, share: float, value: float) -> str:
    trial = Trial(name)
    scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"share": share, "objective": value})


def test_asha_stops_who_is_worse_than_the_best_third() -> None:
    scheduler = asha()
    assert told(scheduler, "0000", 0.1, 1.0) == "CONTINUE"
    assert told(scheduler, "0001", 0.1, 2.0) == "STOP"
    assert told(scheduler, "0002", 0.1, 0.5) == "CONTINUE"


def test_asha_judges_at_every_rung_though_a_share_is_rounded() -> None:
    scheduler = asha()
    for i in range(3):
        told(scheduler, f"{i:04d}", 0.1, 1.0)
    assert told(scheduler, "0000", 300 / 1000, 1.0) == "CONTINUE"
    assert told(scheduler, "0001", 300 / 1000, 2.0) == "STOP"


def test_a_trial_that_is_through_is_not_stopped_by_a_rung_that_it_passed_unheard() -> None:
    scheduler = asha()
    for i in range(3):
        told(scheduler, f"{i:04d}", 0.3, float(i))
    assert told(scheduler, "0003", 1.0, 99.0) == "CONTINUE"


def test_a_trial_at_its_end_is_never_stopped() -> None:
    scheduler = asha()
    for i in range(3):
        told(scheduler, f"{i:04d}", 0.3, float(i))
    trial = Trial("0000")
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"share": 1.0, "objective": 99.0}) == "CONTINUE"


def test_asha_that_hears_of_an_earlier_call_judges_as_if_there_had_been_none() -> None:
    past = [(f"{i:04d}", Report(share, {}, {"m": float(i)})) for i in range(6) for share in (0.1,)]
    fresh, again = asha(), asha()
    again.replay(past, "m")
    assert told(fresh, "0006", 0.1, 3.0) == "CONTINUE"
    assert told(again, "0006", 0.1, 3.0) == "STOP"
    assert told(again, "0000", 0.15, 99.0) == "CONTINUE"  # judged at this rung before
