"""The journal: what was said is read back, whatever moment the driver was killed at."""

from pathlib import Path

import pytest

from trimtab.core.errors import OutputError
from trimtab.core.tracker import Metric
from trimtab.sweep.journal import FILE, Ending, Journal
from trimtab.sweep.study import Report, report

FIRST = report(0.5, [Metric("validation/mse", 1.5, 10), Metric("validation/l0", 3.0, 10)])
SECOND = Report(1.0, {"alpha=1": [Metric("sae/mse", 0.5, 2)]}, {"sae/mse": 0.5})


def written(folder: Path) -> None:
    with Journal(folder) as journal:
        journal.began("0000", {"x": 1, "layers": [2, 3]})
        journal.reported("0000", FIRST)
        journal.began("0001", {"x": 2})
        journal.reported("0000", SECOND)
        journal.ended("0000", "finished")
        journal.ended("0001", "failed", "ValueError: {braces}\nand lines")


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written(tmp_path)
    with Journal(tmp_path) as journal:
        first, second = journal.stories.values()
        assert first.reports == [FIRST, SECOND]
        assert (first.point, first.ending, first.share) == (
            {"x": 1, "layers": [2, 3]},
            "finished",
            1,
        )
        assert first.scores == {"validation/mse": 1.5, "validation/l0": 3.0, "sae/mse": 0.5}
        assert (second.ending, second.error) == ("failed", "ValueError: {braces}\nand lines")
        assert journal.events == [("0000", FIRST), ("0000", SECOND)]


def test_cut_anywhere_it_is_what_was_whole_and_can_be_gone_on_with(tmp_path: Path) -> None:
    written(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for cut in range(0, len(whole), 7):
        (tmp_path / FILE).write_bytes(whole[:cut])
        with Journal(tmp_path) as journal:
            assert len(journal.events) <= 2
            journal.began("0009", {})
        with Journal(tmp_path) as journal:
            assert "0009" in journal.stories


def test_a_point_that_changed_is_the_latest(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.began("0000", {"rate": 1.0})
        journal.reported("0000", FIRST)
        journal.began("0000", {"rate": 0.8})
    with Journal(tmp_path) as journal:
        assert journal.stories["0000"].point == {"rate": 0.8}
        assert journal.stories["0000"].reports == [FIRST]


@pytest.mark.parametrize("ending", ["failed", "killed", "stopped"])
def test_a_trial_that_is_told_anew_stands_as_before_until_it_has_finished(
    tmp_path: Path, ending: Ending
) -> None:
    written(tmp_path)
    with Journal(tmp_path) as journal:
        journal.began("0000", {"x": 1}, anew=True)
        assert (journal.stories["0000"].reports, journal.stories["0000"].ending) == ([], None)
        journal.reported("0000", FIRST)
        journal.ended("0000", ending, "JudgeError: away")
    with Journal(tmp_path) as journal:
        story = journal.stories["0000"]
        assert (story.reports, story.ending, story.error) == ([FIRST, SECOND], "finished", "")
        journal.began("0000", {"x": 1}, anew=True)
        journal.reported("0000", SECOND)
        journal.ended("0000", "finished")
    with Journal(tmp_path) as journal:
        story = journal.stories["0000"]
        assert (story.reports, story.ending, list(journal.stories)) == (
            [SECOND],
            "finished",
            ["0000", "0001"],
        )


def test_two_drivers_do_not_run_one_sweep(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(OutputError, match="another process"):
        Journal(tmp_path)
    with Journal(tmp_path) as journal:
        assert journal.stories == {}


def test_a_score_is_the_mean_over_steps() -> None:
    by_layer = [Metric("sae/l0", 2.0, 0), Metric("sae/l0", 4.0, 5), Metric("sae/mse", 1.0, 0)]
    assert report(1.0, by_layer).scores == {"sae/l0": 3.0, "sae/mse": 1.0}
