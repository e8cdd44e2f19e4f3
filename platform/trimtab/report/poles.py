"""Figures with the ten poles as axes: gradient peaks, and the cosine matrix of their centres."""

from typing import Final

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trimtab.core.poles import NUM_POLES, POLES
from trimtab.metrics.peaks import peaks
from trimtab.report.by_layer import Curves
from trimtab.report.style import (
    GREY,
    SMALL,
    TITLE,
    VICE_COLOUR,
    VIRTUE_COLOUR,
    WIDTH,
    legend,
    model_styles,
    new_figure,
    panel,
    say,
)

_SPREAD: Final = 0.7
"""Share of a pole's row that the models are spread over."""


def gradient(curves: Curves, subtitle: str) -> Figure:
    """Best layer's Spearman correlation of closeness to a pole's centre with typicality, by pole.

    Each model is a dot, the mean of models a vertical line; vice poles lie on grey.
    """
    figure = new_figure("Typicality: best rank correlation by pole", 3.9, len(curves))
    axes = figure.add_subplot()
    panel(axes, "", f"{subtitle}; vertical line: mean of models" if len(curves) > 1 else subtitle)
    best = _peaks_by_pole(curves)
    if np.isnan(best).all():
        say(axes, "The rank correlation is undefined at every layer")
    else:
        _dots(axes, curves, best)
    dots = {model: {**style, "linestyle": ""} for model, style in model_styles(curves).items()}
    legend(figure, dots, axes)
    return figure


def cosine_matrix(matrix: Float[np.ndarray, "10 10"], title: str, subtitle: str) -> Figure:
    """Cosines between the centres of the ten poles, the value in each cell.

    Args:
        matrix: rows and columns in the order of `POLES`; NaN where a pole has no centre.
    """
    figure = Figure(figsize=(WIDTH, WIDTH * 0.86), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE, fontweight="bold")
    axes = figure.add_subplot()
    axes.set_facecolor("0.9")
    axes.set_title(subtitle, fontsize=SMALL, loc="left", color=GREY)
    image = axes.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("cosine", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    _name_poles(axes)
    if np.isnan(matrix).all():
        say(axes, "No pole has a centre")
    for (row, column), value in np.ndenumerate(matrix):
        if not np.isnan(value):
            ink = "white" if abs(value) > 0.6 else "black"
            text = f"{value:.2f}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", fontsize=SMALL - 0.5, color=ink)
    return figure


def _peaks_by_pole(curves: Curves) -> Float[np.ndarray, "models 10"]:
    best = np.full((len(curves), NUM_POLES), np.nan)
    for i, metrics in enumerate(curves.values()):
        found = peaks(metrics)
        for j, pole in enumerate(POLES):
            best[i, j] = found.get(f"peak/gradient/spearman/{pole}", np.nan)
    return best


def _dots(axes: Axes, curves: Curves, best: Float[np.ndarray, "models 10"]) -> None:
    num_models = len(curves)
    offsets = _SPREAD * ((np.arange(num_models) + 0.5) / num_models - 0.5)
    for style, offset, row in zip(model_styles(curves).values(), offsets, best, strict=True):
        y = np.arange(NUM_POLES) + offset
        axes.plot(row, y, linestyle="", marker=style["marker"], color=style["color"], markersize=4)
    for j in np.flatnonzero(~np.isnan(best).all(axis=0)):
        axes.vlines(np.nanmean(best[:, j]), j - 0.45, j + 0.45, color="0.3", linewidth=1)
    for vice in range(1, NUM_POLES, 2):
        axes.axhspan(vice - 0.5, vice + 0.5, color="0.95", zorder=0)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(NUM_POLES), POLES)
    axes.set_ylim(NUM_POLES - 0.5, -0.5)
    axes.set_xlabel("Spearman correlation at its best layer", fontsize=SMALL + 1)
    _colour_poles(axes.get_yticklabels())


def _name_poles(axes: Axes) -> None:
    axes.set_xticks(range(NUM_POLES), POLES, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(NUM_POLES), POLES)
    axes.tick_params(labelsize=SMALL, length=0)
    axes.spines[:].set_visible(False)
    _colour_poles(axes.get_xticklabels())
    _colour_poles(axes.get_yticklabels())


def _colour_poles(labels: list) -> None:
    for pole, label in enumerate(labels):
        label.set_color(VICE_COLOUR if pole % 2 else VIRTUE_COLOUR)
