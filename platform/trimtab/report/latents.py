"""Moral latents in pictures: how strongly each dimension is followed, and what an alignment did.

Draws numbers that are given; computes no score. A value that is undefined is not drawn.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trimtab.core.files import writable_folder
from trimtab.core.poles import FOUNDATIONS, POLES
from trimtab.report.style import (
    GREY,
    SMALL,
    VICE_COLOUR,
    VIRTUE_COLOUR,
    new_figure,
    panel,
    save,
    say,
)
from trimtab.report.tables import Cell

Strengths = Mapping[str, Sequence[tuple[float, bool]]]
"""Pole -> its largest correlations, and whether each is significant."""
ROWS: Final = {
    "monosemantic": "monosemantic ratio",
    "strict": "strict latents, share",
    "prototypicality/mean": "prototypicality, mean",
    "pair_cosine/mean": "pair cosine, mean",
    "fvu": "variance unexplained",
    "mse": "mean squared error",
}
"""Metric below a stage -> what the table calls it."""
STAGES: Final = ("before", "after", "reidentified")


def comparison_table(metrics: Mapping[str, float]) -> list[dict[str, Cell]]:
    """One row per score, with the stages and the change as columns; undefined is None."""
    columns = (*STAGES, "change")
    return [
        {"score": title, **{stage: metrics.get(f"align/{stage}/{name}") for stage in columns}}
        for name, title in ROWS.items()
    ]


def draw_located(strengths: Strengths, threshold: float, subtitle: str, folder: Path) -> list[Path]:
    """Draws each dimension's largest correlations into a folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    figure = new_figure("Latents that follow each dimension", 3.9, 1)
    axes = figure.add_subplot()
    panel(axes, "", f"{subtitle}; vertical line: threshold")
    if not any(strengths.values()):
        say(axes, "No latent follows any dimension")
    else:
        _strengths(axes, strengths, threshold)
        filled = {"linestyle": "", "marker": "o", "markersize": 4, "color": GREY}
        handles = [
            Line2D([], [], label="beyond chance", **filled),
            Line2D([], [], label="not to be told from chance", markerfacecolor="white", **filled),
        ]
        _legend(figure, handles)
    return [save(figure, writable_folder(folder) / "strengths.png")]


def draw_aligned(metrics: Mapping[str, float], subtitle: str, folder: Path) -> list[Path]:
    """Draws prototypicality by dimension and pair cosine by foundation, before and after.

    Args:
        metrics: the names of an alignment's comparison.

    Raises:
        OutputError: the folder cannot be written.
    """
    figure = new_figure("What the alignment did to the latents", 4.6, 1)
    upper, lower = figure.subplots(2, 1, height_ratios=(2, 1.15))
    panel(upper, "", subtitle)
    _arrows(upper, metrics, "prototypicality", POLES)
    upper.set_xlabel(
        "prototypicality: rank correlation with typicality (higher is better)", fontsize=SMALL + 1
    )
    panel(lower, "")
    _arrows(lower, metrics, "pair_cosine", FOUNDATIONS)
    lower.set_xlabel("cosine between virtue and vice (lower is better)", fontsize=SMALL + 1)
    dots = {"linestyle": "", "marker": "o", "markersize": 4.5, "color": "black"}
    handles = [
        Line2D([], [], label="before", markerfacecolor="white", **dots),
        Line2D([], [], label="after, same latents", **dots),
        Line2D([], [], label="after, latents found anew", **{**dots, "marker": "x", "color": GREY}),
    ]
    _legend(figure, handles)
    return [save(figure, writable_folder(folder) / "before-after.png")]


def _strengths(axes: Axes, strengths: Strengths, threshold: float) -> None:
    for y, pole in enumerate(POLES):
        for r, significant in strengths[pole]:
            colour = _colour(pole)
            face = colour if significant else "white"
            axes.plot(r, y, "o", markersize=4, color=colour, markerfacecolor=face, linewidth=0.8)
    axes.axvline(threshold, color="0.6", linewidth=0.8)
    axes.set_xlim(left=0)
    axes.set_xlabel("Pearson correlation of the best latents", fontsize=SMALL + 1)
    _name(axes, POLES)


def _arrows(axes: Axes, metrics: Mapping[str, float], score: str, concepts: Sequence[str]) -> None:
    """Before and after as dots that a line joins, one row for each concept."""
    drawn = False
    for y, concept in enumerate(concepts):
        values = [metrics.get(f"align/{stage}/{score}/{concept}", np.nan) for stage in STAGES]
        before, after, anew = values
        if np.isnan([before, after]).any():
            continue
        colour = _colour(concept)
        axes.annotate(
            "",
            xy=(after, y),
            xytext=(before, y),
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1.4},
        )
        if score == "prototypicality":  # the other is over all latents, whichever are chosen
            axes.plot(anew, y, "x", markersize=4.5, color=GREY, zorder=3)
        axes.plot(before, y, "o", markersize=5, color=colour, markerfacecolor="white", zorder=4)
        axes.plot(after, y, "o", markersize=5, color=colour, zorder=5)
        drawn = True
    if not drawn:
        say(axes, "Undefined: too few rows, or no latents")
        return
    axes.axvline(0, color="0.6", linewidth=0.8)
    _name(axes, concepts)


def _name(axes: Axes, concepts: Sequence[str]) -> None:
    axes.set_yticks(range(len(concepts)), concepts)
    axes.set_ylim(len(concepts) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for label, concept in zip(axes.get_yticklabels(), concepts, strict=True):
        label.set_color(_colour(concept))


def _colour(concept: str) -> str:
    if concept in FOUNDATIONS:
        return "0.2"
    return VICE_COLOUR if POLES.index(concept) % 2 else VIRTUE_COLOUR


def _legend(figure: Figure, handles: list[Any]) -> None:
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=SMALL - 0.5,
        frameon=False,
    )
