"""A training's figures and table: what they show is what they were given."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from trimtab.report.training import draw_training, learning, quality_by_layer, quality_table

CURVES = {
    "validation/fvu": {layer: {10: 0.9, 20: 0.5 + 0.01 * layer} for layer in (2, 5)},
    "validation/l0": {layer: {10: 16.0, 20: 16.0} for layer in (2, 5)},
}
FOUND = {
    5: {"sae/fvu": 0.2, "sae/l0": 16.0, "sae/token/fvu": 3.0},
    2: {"sae/fvu": 0.1, "sae/l0": 15.0, "sae/token/fvu": 2.0, "sae/ce_loss_score": 0.9},
}


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_each_layer_has_its_own_curve() -> None:
    figure = learning(CURVES, "who")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {"layer 2", "layer 5"}
    assert np.asarray(lines["layer 5"].get_xdata()).tolist() == [10, 20]
    assert np.asarray(lines["layer 5"].get_ydata()).tolist() == [0.9, 0.55]
    assert "not reported" in words(figure)


def test_many_layers_name_nine_of_them_with_the_first_and_the_last() -> None:
    curves = {"validation/fvu": {layer: {1: 0.5} for layer in range(36)}}
    (named,) = learning(curves, "").legends
    labels = [text.get_text() for text in named.get_texts()]
    assert len(labels) == 9
    assert (labels[0], labels[-1]) == ("layer 0", "layer 35")


def test_an_error_above_the_variance_is_drawn_on_a_log_axis() -> None:
    assert quality_by_layer(FOUND, "").axes[0].get_yscale() == "log"
    small = {layer: named | {"sae/token/fvu": 0.5} for layer, named in FOUND.items()}
    assert quality_by_layer(small, "").axes[0].get_yscale() == "linear"


def test_what_was_not_measured_is_said_and_a_gap_is_left() -> None:
    rows = quality_table(FOUND)
    assert [row["layer"] for row in rows] == [2, 5]
    assert [row["ce_recovered"] for row in rows] == [0.9, None]
    assert rows[0].keys() == rows[1].keys()
    without = {layer: {"sae/fvu": 0.2} for layer in (2, 5)}
    figure = quality_by_layer(without, "")
    assert "not measured" in words(figure)
    upper, lower = figure.axes
    assert (upper.get_xlabel(), lower.get_xlabel()) == ("layer", "")
    figure.draw_without_rendering()
    shown = [label.get_text() for label in upper.get_xticklabels() if label.get_visible()]
    assert {"2", "5"} <= set(shown)


def test_the_figures_are_written_alike_twice_and_one_layer_needs_one(tmp_path: Path) -> None:
    first = draw_training(CURVES, FOUND, "who", tmp_path / "a")
    second = draw_training(CURVES, FOUND, "who", tmp_path / "b")
    assert [path.name for path in first] == ["learning.png", "quality.png"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    one = draw_training(CURVES, {2: FOUND[2]}, "who", tmp_path / "c")
    assert [path.name for path in one] == ["learning.png"]
