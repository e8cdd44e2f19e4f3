"""Layer by strength: heat maps of the win rate, of the net rate and of perplexity, and their table.

One panel per kind of arm, on one scale, so that a control is seen beside what it controls. Every
cell carries its number. A cell of a layer that was stopped early stands on fewer prompts, and is
marked; one without a number was not measured.

Net rates whose 95 % interval leaves out 0 are bold. The scale of perplexity is logarithmic, for a
strong edit multiplies it, and begins where the unedited model is.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure

from trimtab.core.arms import ARM_KINDS
from trimtab.core.files import writable_folder
from trimtab.report.style import GREY, SMALL, TITLE, WIDTH, save

_SCORE: Final = re.compile(r"(?P<measure>\w+)@(?P<kind>\w+)(?: (?P<alpha>\S+))?")
_PANEL: Final = 1.75
"""Inches of a panel's width, at least."""
_CELL: Final = 0.21
"""Inches of a layer's height."""
_BASELINE: Final = "baseline"
_LEAST_REACH: Final = 0.1
"""A net rate smaller than this has no strong colour, whatever the others are."""
_LEAST_FACTOR: Final = 2.0
"""The same for perplexity, as a multiple of the smallest."""
_MANY: Final = 100.0
_DARK: Final = 0.55
"""Luminance below which a cell's number is white."""


class Cell(NamedTuple):
    """What was measured of one arm at one layer."""

    layer: int
    """The block."""
    kind: str
    """Kind of arm, or `baseline`."""
    alpha: float
    """Strength; 0 for the baseline."""
    share: float
    """How much of the trial was done."""
    measures: dict[str, float]
    """By name: `win_rate`, `net`, `perplexity`, their ends, ..."""


def draw_steer(found: Sequence[Cell], folder: Path) -> list[Path]:
    """Draws the heat maps and returns the PNG files.

    Args:
        found: every arm of every layer.
        folder: where they go.

    Raises:
        OutputError: the folder cannot be written.
    """
    writable_folder(folder)
    if not any(cell.kind != _BASELINE for cell in found):
        return []
    figures = {
        "steer-win-rate": heat_map(
            found, "win_rate", "Win rate against the unedited model", colormaps["viridis"], None
        ),
        "steer-net": heat_map(
            found,
            "net",
            "Wins less losses, share of the judged (bold: 95 % interval without 0)",
            colormaps["RdBu"],
            0.0,
        ),
        "steer-perplexity": heat_map(
            found, "perplexity", "Perplexity under the unedited model", colormaps["magma_r"], None
        ),
    }
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def cells(trials: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Every arm of every layer, layers ascending; of two trials of one layer the first counts.

    Args:
        trials: a row per layer with `steer/best_layer`, `share` and scores like `net@aligned 0.1`;
            a trial that told nothing is left out.
    """
    found: dict[tuple[int, str, float], Cell] = {}
    for row in trials:
        if row.get("steer/best_layer") is None:
            continue
        for name, value in row.items():
            matched = _SCORE.fullmatch(name)
            if matched is None or value is None:
                continue
            layer, alpha = int(row["steer/best_layer"]), float(matched["alpha"] or 0)
            key = (layer, matched["kind"], alpha)
            cell = found.setdefault(key, Cell(*key, float(row["share"]), {}))
            if cell.share >= float(row["share"]):
                cell.measures.setdefault(matched["measure"], float(value))
    places = {kind: place for place, kind in enumerate((_BASELINE, *ARM_KINDS))}
    return sorted(
        found.values(),
        key=lambda cell: (cell.layer, places.get(cell.kind, len(places)), cell.kind, cell.alpha),
    )


def cell_rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """The table: one row per (layer, arm), all with the same columns; what is unknown is None."""
    names = sorted({name for cell in found for name in cell.measures})
    return [
        {"layer": cell.layer, "kind": cell.kind, "alpha": cell.alpha, "share": cell.share}
        | {name: cell.measures.get(name) for name in names}
        for cell in found
    ]


def named(kind: str) -> str:
    """A kind of arm as it is written in figures."""
    return kind.replace("_", " ")


def heat_map(
    found: Sequence[Cell], measure: str, title: str, colours: Colormap, middle: float | None
) -> Figure:
    """Layers upwards, strengths to the right, a panel for each kind of arm.

    Args:
        found: what to show; the baseline has no panel.
        measure: which number; `perplexity` is coloured by its logarithm.
        title: of the figure.
        colours: low to high.
        middle: the value that the colours are even about; None spreads them over what is there.
    """
    edited = [cell for cell in found if cell.kind != _BASELINE]
    kinds = list(dict.fromkeys(cell.kind for cell in edited))
    layers = sorted({cell.layer for cell in edited})
    alphas = sorted({cell.alpha for cell in edited})
    wide = max(WIDTH, len(kinds) * max(_PANEL, 0.34 * len(alphas)) + 0.9)
    figure = Figure(figsize=(wide, 1.25 + _CELL * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE, fontweight="bold")
    grids = {kind: _grid(edited, kind, measure, layers, alphas) for kind in kinds}
    norm = _norm(np.stack(list(grids.values())), measure, middle)
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    partial = {cell.layer for cell in edited if cell.share < 1}
    for axes, (kind, grid) in zip(panels, grids.items(), strict=True):
        _panel(axes, grid, norm, colours, measure, _sure(edited, kind, measure, layers, alphas))
        axes.set_title(named(kind), fontsize=SMALL, loc="left", color=GREY)
        axes.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas], fontsize=SMALL)
        axes.set_xlabel("alpha", fontsize=SMALL + 1)
    names = [f"{layer}*" if layer in partial else str(layer) for layer in layers]
    panels[0].set_yticks(range(len(layers)), names, fontsize=SMALL)
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    panels[0].set_ylabel("layer (* stopped early)" if partial else "layer", fontsize=SMALL + 1)
    return figure


def _grid(
    found: Sequence[Cell], kind: str, measure: str, layers: list[int], alphas: list[float]
) -> Float[np.ndarray, "layers alphas"]:
    grid = np.full((len(layers), len(alphas)), np.nan)
    for cell in found:
        if cell.kind == kind and measure in cell.measures:
            grid[layers.index(cell.layer), alphas.index(cell.alpha)] = cell.measures[measure]
    return grid


def _sure(
    found: Sequence[Cell], kind: str, measure: str, layers: list[int], alphas: list[float]
) -> Bool[np.ndarray, "layers alphas"]:
    """Where a net rate's interval leaves out 0."""
    if measure != "net":
        return np.zeros((len(layers), len(alphas)), dtype=bool)
    low, high = (_grid(found, kind, f"net_{end}", layers, alphas) for end in ("low", "high"))
    return (low > 0) | (high < 0)


def _norm(values: np.ndarray, measure: str, middle: float | None) -> Normalize:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if middle is not None:
        reach = max(abs(high - middle), abs(low - middle), _LEAST_REACH)
        return Normalize(middle - reach, middle + reach)
    if measure == "perplexity" and low > 0:
        return LogNorm(low, max(high, low * _LEAST_FACTOR))
    return Normalize(low, max(high, low + 1e-6))


def _panel(
    axes: Axes,
    grid: Float[np.ndarray, "layers alphas"],
    norm: Normalize,
    colours: Colormap,
    measure: str,
    sure: Bool[np.ndarray, "layers alphas"],
) -> None:
    axes.imshow(grid, aspect="auto", origin="lower", cmap=colours, norm=norm)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            red, green, blue, _ = colours(float(norm(value)))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < _DARK
            axes.text(
                column,
                row,
                _said(value, measure),
                ha="center",
                va="center",
                fontsize=SMALL - 1,
                fontweight="bold" if sure[row, column] else "normal",
                color="white" if dark else "black",
            )


def _said(value: float, measure: str) -> str:
    if measure == "perplexity":
        return f"{value:.2f}" if value < _MANY else f"{value:.0e}"
    said = f"{value:+.2f}" if measure == "net" else f"{value:.2f}"
    return "0.00" if said in ("+0.00", "-0.00") else said.replace("-", "−")
