"""Heat maps of layer and strength: every number in its cell, and nothing where nothing is known."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure

from trimtab.report.steer import Cell, cell_rows, cells, draw_steer, heat_map
from trimtab.report.steer_best import best_figure, best_rows, best_says

TRIALS: list[dict[str, Any]] = [
    {
        "trial": "0001",
        "share": 1.0,
        "steer/best_layer": 7.0,
        "net@aligned 0.1": 0.25,
        "net_low@aligned 0.1": 0.1,
        "net_high@aligned 0.1": 0.4,
        "net@aligned 2": -0.001,
        "net@random_latents 0.1": 0.05,
        "perplexity@aligned 0.1": 8.0,
        "perplexity@baseline": 6.5,
        "win_rate@aligned 0.1": 0.5,
        "error": "",
    },
    {"trial": "0000", "share": 0.2, "steer/best_layer": 3.0, "net@aligned 0.1": -0.5},
    {"trial": "0002", "share": 0.0, "steer/best_layer": None, "net@aligned 0.1": None},
]


def numbers(figure: Figure) -> list[list[str]]:
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


def test_cells_are_read_by_layer_arm_and_strength() -> None:
    found = cells(TRIALS)
    assert [(c.layer, c.kind, c.alpha) for c in found] == [
        (3, "aligned", 0.1),
        (7, "baseline", 0.0),
        (7, "aligned", 0.1),
        (7, "aligned", 2.0),
        (7, "random_latents", 0.1),
    ]
    assert found[2].measures == {
        "net": 0.25,
        "net_low": 0.1,
        "net_high": 0.4,
        "perplexity": 8.0,
        "win_rate": 0.5,
    }


def test_of_two_trials_of_one_layer_the_first_counts() -> None:
    again = {"share": 1.0, "steer/best_layer": 7.0, "net@aligned 0.1": 0.9}
    assert {c.measures["net"] for c in cells([*TRIALS, again]) if c.kind == "aligned"} == {
        -0.5,
        0.25,
        -0.001,
    }


def test_a_panel_for_each_kind_and_a_number_in_each_known_cell() -> None:
    figure = heat_map(cells(TRIALS), "net", "Net", colormaps["RdBu"], 0.0)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["aligned", "random latents"]
    assert numbers(figure) == [["−0.50", "+0.25", "0.00"], ["+0.05"]]
    bold = [t.get_text() for t in figure.axes[0].texts if t.get_fontweight() == "bold"]
    assert bold == ["+0.25"]


def test_a_layer_that_was_stopped_early_is_marked() -> None:
    figure = heat_map(cells(TRIALS), "net", "Net", colormaps["RdBu"], 0.0)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["3*", "7"]
    assert "stopped early" in figure.axes[0].get_ylabel()
    whole = heat_map(cells(TRIALS[:1]), "net", "Net", colormaps["RdBu"], 0.0)
    assert whole.axes[0].get_ylabel() == "layer"


def test_no_effect_has_no_strong_colour() -> None:
    found = [Cell(0, "aligned", 0.1, 1.0, {"net": 0.001, "net_low": -0.1, "net_high": 0.1})]
    figure = heat_map(found, "net", "Net", colormaps["RdBu"], 0.0)
    (image,) = figure.axes[0].get_images()
    assert image.norm(0.001) == pytest.approx(0.5, abs=0.01)


def test_figures_are_written_and_nothing_of_nothing(tmp_path: Path) -> None:
    drawn = draw_steer(cells(TRIALS), tmp_path)
    assert {path.name for path in drawn} == {
        "steer-win-rate.png",
        "steer-net.png",
        "steer-perplexity.png",
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert draw_steer([], tmp_path) == []
    assert draw_steer(cells([TRIALS[2]]), tmp_path) == []


def test_thirty_six_layers_and_eight_strengths_have_room_for_their_numbers() -> None:
    kinds, alphas = ("aligned", "unaligned", "random_latents"), np.linspace(0.05, 0.4, 8).tolist()
    found = [
        Cell(layer, kind, alpha, 1.0, {"win_rate": 0.5})
        for layer in range(36)
        for kind in kinds
        for alpha in alphas
    ]
    figure = heat_map(found, "win_rate", "Win rate", colormaps["viridis"], None)
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts[:8]]
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_the_table_has_the_same_columns_in_every_row() -> None:
    rows = cell_rows(cells(TRIALS))
    assert len({tuple(row) for row in rows}) == 1
    assert rows[0]["net"] == -0.5
    assert rows[0]["perplexity"] is None


def test_the_best_stands_beside_its_controls_on_the_half_that_scores() -> None:
    ends = {"held_out_net_low": -0.1, "held_out_net_high": 0.3, "held_out_prompts": 120.0}
    found = [
        Cell(3, "aligned", 0.1, 1.0, {"held_out_net": 0.1, **ends}),
        Cell(3, "unaligned", 0.1, 1.0, {"held_out_net": 0.0, **ends}),
        Cell(3, "aligned", 0.4, 1.0, {"held_out_net": 0.9, **ends}),
        Cell(4, "aligned", 0.1, 1.0, {"held_out_net": 0.8, **ends}),
    ]
    (axes,) = best_figure(found, 3, 0.1).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["unaligned", "aligned"]
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in marks] == [0.0, 0.1]
    assert "n = 120" in axes.get_title(loc="left")
    (empty,) = best_figure([], 3, 0.1).axes
    assert [text.get_text() for text in empty.texts] == ["No layer was measured to its end"]


def measured(kind: str, low: float, high: float) -> Cell:
    net = {"": (low + high) / 2, "_low": low, "_high": high}
    measures = {f"held_out_net{end}": value for end, value in net.items()}
    return Cell(3, kind, 0.1, 1.0, measures | {"held_out_prompts": 120.0, "perplexity": 1.25})


@pytest.mark.parametrize(
    ("aligned", "control", "says"),
    [
        ((-0.1, 0.1), (-0.1, 0.1), "No effect was found"),
        ((0.1, 0.3), (-0.1, 0.05), "wins more than it loses, beyond every control"),
        ((0.1, 0.3), (-0.1, 0.15), "wins more than it loses, but no further than a control may"),
        ((-0.3, -0.1), (0.0, 0.1), "loses more than it wins, beyond every control"),
        ((0.05, 0.12), (0.2, 0.4), "wins more than it loses, but no further than a control may"),
        ((-0.3, -0.1), (-0.6, -0.4), "loses more than it wins, but no further than a control may"),
    ],
)
def test_an_effect_is_said_where_the_interval_leaves_out_0_and_every_control(
    aligned: tuple[float, float], control: tuple[float, float], says: str
) -> None:
    found = [measured("aligned", *aligned), measured("random_latents", *control)]
    assert says in best_says(found, 3, 0.1)
    assert "120 prompts" in best_says(found, 3, 0.1)


def test_an_edit_to_compare_with_is_no_control() -> None:
    found = [measured("aligned", 0.1, 0.3), measured("difference_of_means", 0.2, 0.4)]
    assert "and has no control beside it" in best_says(found, 3, 0.1)


def test_rates_stand_with_their_intervals_below_the_unedited_model() -> None:
    baseline = Cell(3, "baseline", 0.0, 1.0, {"perplexity": 1.2})
    elsewhere = Cell(4, "aligned", 0.1, 1.0, {"held_out_net": 0.9})
    found = [baseline, measured("aligned", -0.25, 0.5), elsewhere]
    assert best_rows(found, 3, 0.1) == [
        {"Arm": "baseline", "Net rate": "–", "Win rate": "–", "Perplexity": "1.2"},
        {
            "Arm": "aligned",
            "Net rate": "0.125 [-0.250, 0.500]",
            "Win rate": "–",
            "Perplexity": "1.25",
        },
    ]
