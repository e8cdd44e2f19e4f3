"""The figures: what they show is what they were given, and what is undefined stays empty."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trimtab.core.errors import OutputError
from trimtab.core.poles import POLES
from trimtab.report.by_layer import categorical, dimensional, structural
from trimtab.report.figures import Diagnosis, draw_all
from trimtab.report.poles import cosine_matrix, gradient
from trimtab.report.style import counted, model_styles, short_names

Build = Callable[[int], Diagnosis]


def line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = [x for x in axes.lines if x.get_label() == label and len(x.get_xdata())]  # pyright: ignore[reportArgumentType]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_every_figure_is_written_and_drawn_the_same_twice(tmp_path: Path, diagnosis: Build) -> None:
    diagnoses = {"nursery/base": diagnosis(3), "nursery/guard": diagnosis(2)}
    first = draw_all(diagnoses, tmp_path / "first")
    second = draw_all(diagnoses, tmp_path / "second")
    assert [path.name for path in first] == [
        "categorical.png",
        "gradient.png",
        "structural-polarity.png",
        "structural-foundation.png",
        "dimensional.png",
        "matrix-base.png",
        "matrix-guard.png",
    ]
    assert sorted(first) == sorted((tmp_path / "first").iterdir())
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes().startswith(b"\x89PNG")
        assert one.read_bytes() == other.read_bytes()


def test_a_line_passes_through_the_values_at_their_layers(diagnosis: Build) -> None:
    axes = categorical({"m": diagnosis(4).curves}, "").axes[0]
    x, y = line(axes, "m")
    assert x.tolist() == [0, 1, 2, 3]
    assert y == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert axes.get_xlabel() == "layer"


def test_models_of_different_depth_share_a_relative_one(diagnosis: Build) -> None:
    axes = dimensional({"a": diagnosis(3).curves, "b": diagnosis(5).curves}, "").axes[0]
    assert line(axes, "a")[0].tolist() == [0, 0.5, 1]
    assert line(axes, "b")[0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert axes.get_xlabel().startswith("relative depth")


def test_a_layer_where_a_metric_is_undefined_is_a_gap_and_lone_values_keep_a_marker() -> None:
    noise = dict.fromkeys(range(30), 0.5)
    curves = {
        "m": {"structural/noise": noise, "structural/ari/polarity": {4: 0.1, 9: 0.2, 10: 0.3}}
    }
    axes = structural(curves, "polarity", "").axes[0]
    (drawn,) = [x for x in axes.lines if x.get_label() == "m"]
    y = np.asarray(drawn.get_ydata())
    assert np.flatnonzero(~np.isnan(y)).tolist() == [4, 9, 10]
    marked = drawn.get_markevery()
    assert isinstance(marked, list)
    assert 4 in marked


def test_a_panel_without_any_value_says_so_in_words() -> None:
    curves = {"m": {"structural/noise": {0: 1.0, 1: 1.0}}}
    figure = structural(curves, "polarity", "")
    assert words(figure) == "The Rand index is undefined at every layer"
    assert line(figure.axes[1], "m")[1].tolist() == [1.0, 1.0]
    for empty in (gradient(curves, ""), dimensional(curves, ""), categorical(curves, "")):
        assert "undefined at every layer" in words(empty)


def test_a_model_without_a_best_layer_has_no_matrix(tmp_path: Path) -> None:
    drawn = draw_all({"m": Diagnosis({"structural/noise": {0: 1.0}}, {}, 0)}, tmp_path)
    assert not [path for path in drawn if path.name.startswith("matrix")]


def test_a_massively_negative_r2_does_not_flatten_the_others() -> None:
    axes = dimensional({"m": {"dimensional/r2": {0: 0.2, 1: -50_000.0}}}, "n = 9").axes[0]
    assert axes.get_ylim() == pytest.approx((-0.5, 0.25))
    assert axes.get_title(loc="left") == "n = 9; values down to −50,000.00 are cut off"


def test_a_dot_lies_in_its_poles_row_at_the_best_layers_value(diagnosis: Build) -> None:
    axes = gradient({"a": diagnosis(3).curves, "b": diagnosis(3).curves}, "").axes[0]
    dots = [x for x in axes.lines if len(np.asarray(x.get_xdata())) == len(POLES)]
    assert len(dots) == 2
    for model in dots:
        assert np.asarray(model.get_xdata()) == pytest.approx(0.05 * np.arange(10))
        assert np.round(np.asarray(model.get_ydata())).tolist() == list(range(10))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(POLES)


def test_the_matrix_shows_each_defined_cosine_in_its_cell() -> None:
    matrix = np.linspace(-1, 1, 100).reshape(10, 10)
    matrix[3, 4] = np.nan
    figure = cosine_matrix(matrix, "", "")
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert len(texts) == 99
    assert (4, 3) not in texts
    assert texts[0, 0] == "−1.00"
    assert texts[9, 0] == f"−{-matrix[0, 9]:.2f}"
    assert figure.axes[0].images[0].get_clim() == (-1, 1)
    assert words(cosine_matrix(matrix * np.nan, "", "")) == "No pole has a centre"


def test_no_two_of_fifty_six_models_look_alike() -> None:
    styles = model_styles(f"model-{i}" for i in range(56)).values()
    assert len({(style["color"], style["marker"]) for style in styles}) == 56


def test_names_are_short_unless_they_would_be_the_same() -> None:
    assert short_names(["Qwen/Qwen3-8B", "a/base", "b/base"]) == {
        "Qwen/Qwen3-8B": "Qwen3-8B",
        "a/base": "a/base",
        "b/base": "b/base",
    }


def test_a_subtitle_counts_models_and_rows() -> None:
    assert counted(["Qwen/Qwen3-8B"], [16_315]) == "Qwen3-8B, n = 16,315"
    assert counted(["a", "b"], [16_315, 900]) == "2 models, n = 900 to 16,315"


def test_figures_into_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match="taken"):
        draw_all({}, tmp_path / "taken")
