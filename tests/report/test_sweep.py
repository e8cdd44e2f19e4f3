"""The figures of a sweep: a line per trial, a bar per setting, a point per finished trial."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from trimtab.report.sweep import draw_sweep, importance_bars, parallel_coordinates
from trimtab.report.sweep_pareto import pareto_figure


def rows() -> list[dict[str, Any]]:
    settings = [(256, "topk", 1e-4), (512, "relu", 1e-2), (1024, "topk", 1e-3)]
    return [
        {
            "trial": f"{i:04d}",
            "ending": "finished" if i < 2 else "stopped",
            "objective": 0.1 * (i + 1),
            "point/width": width,
            "point/kind": kind,
            "point/rate": rate,
            "point/same": 3,
            "sae/l0": 8.0 * (i + 1),
            "sae/fvu": 0.3 / (i + 1),
        }
        for i, (width, kind, rate) in enumerate(settings)
    ]


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_every_figure_is_written_and_drawn_the_same_twice(tmp_path: Path) -> None:
    drawn = [draw_sweep(rows(), "point/", "m", {"width": 0.7}, tmp_path / n) for n in "ab"]
    assert [path.name for path in drawn[0]] == ["parallel-coordinates.png", "importance.png"]
    for one, other in zip(*drawn, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_each_trial_is_a_line_over_what_varied_and_a_stopped_one_has_no_objective() -> None:
    axes = parallel_coordinates(rows(), "point/", "validation/fvu").axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["width", "kind", "rate", "validation\nfvu"]
    lines = [np.asarray(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) > 2]  # pyright: ignore[reportArgumentType]
    stopped, second, best = lines
    assert best == pytest.approx([0, 0, 0, 0])
    assert second == pytest.approx([1 / 3, 1, 1, 1])  # 512 of 256 to 1,024; the other is the rate
    assert stopped == pytest.approx([1, 0, 0.5])  # 1e-3 is half-way from 1e-4 to 1e-2


def test_a_sweep_without_a_finished_trial_says_so() -> None:
    stopped = [row | {"ending": "stopped"} for row in rows()]
    assert words(parallel_coordinates(stopped, "point/", "m")) == "No trial ran to its end"
    assert words(parallel_coordinates([], "point/", "m")) == "No trial ran to its end"
    assert words(parallel_coordinates(rows()[:1], "point/", "m")) == "No setting varied"
    assert words(importance_bars({}, "m", 1)) == "Too few finished trials to tell"


def test_labels_that_would_lie_over_each_other_are_left_out() -> None:
    near = [row | {"objective": y} for row, y in zip(rows(), (-0.0919, -0.0918, 0.0), strict=True)]
    every = [row | {"ending": "finished"} for row in near]
    axes = parallel_coordinates(every, "point/", "steer/chosen/net").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "steer/chosen\nnet"
    assert [text.get_text() for text in axes.texts][-2:] == ["−0.0919", "0"]


def test_one_setting_explains_nothing_by_a_bar() -> None:
    assert words(importance_bars({"layer": 1.0}, "m", 9)) == "Only one setting varied"


def test_a_bar_is_as_long_as_its_share_and_the_first_is_on_top() -> None:
    axes = importance_bars({"width": 0.7, "rate": 0.2}, "m", 9).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.7]  # pyright: ignore[reportAttributeAccessIssue]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rate", "width"]


def test_the_front_joins_its_points_and_names_them() -> None:
    found = rows()
    figure = pareto_figure(found, [0, 1], "point/kind", "sae/l0", "sae/fvu")
    front = figure.axes[0].lines[0]
    assert np.asarray(front.get_xdata()).tolist() == [8.0, 16.0]
    assert words(figure) == "0000 0001"
    assert "No finished trial" in words(pareto_figure([], [], "k", "sae/l0", "sae/fvu"))
