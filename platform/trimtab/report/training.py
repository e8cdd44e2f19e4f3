"""A training of sparse autoencoders in pictures: how it went by step, and what came out by layer.

Layers are drawn from dark (shallow) to light (deep), since their order is what one looks for; the
legend names at most nine of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trimtab.core.files import writable_folder
from trimtab.report.style import SMALL, legend, new_figure, panel, save, say
from trimtab.report.tables import Cell

ByLayer = Mapping[int, Mapping[str, float]]
"""Layer -> metric name -> value; an undefined value is simply not there."""
Learning = Mapping[str, Mapping[int, Mapping[int, float]]]
"""Metric name -> layer -> optimiser step -> value."""

PANELS: Final = {
    "validation/fvu": "variance unexplained",
    "validation/l0": "active latents (L0)",
    "validation/dead": "latents never active",
}
"""Learning curves that are drawn -> what stands at their axis."""
COLUMNS: Final = {
    "l0": "sae/l0",
    "fvu": "sae/fvu",
    "mse": "sae/mse",
    "dead": "sae/dead",
    "cossim": "sae/cossim",
    "ce_recovered": "sae/ce_loss_score",
    "token_fvu": "sae/token/fvu",
    "token_l0": "sae/token/l0",
    "norm_ratio": "sae/token/norm_ratio",
}
"""Column of the table -> the metric it shows."""
_NAMED: Final = 9
_LIGHTEST: Final = 0.85
"""Of the colour map; what is lighter is hard to see on white."""


def quality_table(found: ByLayer) -> list[dict[str, Cell]]:
    """One row per layer, in order, all with the same columns; undefined is None."""
    return [
        {"layer": layer, **{column: values.get(name) for column, name in COLUMNS.items()}}
        for layer, values in sorted(found.items())
    ]


def draw_training(curves: Learning, found: ByLayer, subtitle: str, folder: Path) -> list[Path]:
    """Draws the learning curves, and with several layers their quality, into a folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    writable_folder(folder)
    figures = {"learning": learning(curves, subtitle)}
    if len(found) > 1:
        figures["quality"] = quality_by_layer(found, subtitle)
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def learning(curves: Learning, subtitle: str) -> Figure:
    """The metrics of `PANELS` by optimiser step, a line for each layer."""
    layers = sorted(set().union(*curves.values()))
    styles = _styles(layers)
    named = {f"layer {layer}": styles[layer] for layer in _some(layers)}
    figure = new_figure("Learning curves", 1.6 * len(PANELS), len(named))
    panels = figure.subplots(len(PANELS), 1, sharex=True)
    for i, (axes, (metric, label)) in enumerate(zip(panels, PANELS.items(), strict=True)):
        panel(axes, label, subtitle if i == 0 else "")
        by_layer = curves.get(metric, {})
        if not any(by_layer.values()):
            say(axes, "not reported")
        for layer, values in by_layer.items():
            steps = sorted(values)
            axes.plot(steps, [values[s] for s in steps], linewidth=1.2, **styles[layer])
        axes.set_ylim(bottom=0)
    panels[-1].set_xlabel("optimiser step", fontsize=SMALL + 1)
    figure.align_ylabels(list(panels))
    legend(figure, named, panels[-1])
    return figure


def quality_by_layer(found: ByLayer, subtitle: str) -> Figure:
    """Variance unexplained and cross-entropy recovered by layer, on held-out data."""
    figure = new_figure("Held-out quality", 3.6, 1)
    upper, lower = figure.subplots(2, 1, sharex=True)
    panel(upper, "variance unexplained", subtitle)
    _by_layer(upper, found, "sae/fvu", "pooled rows", "-")
    _by_layer(upper, found, "sae/token/fvu", "single tokens", ":")
    if any(values.get("sae/token/fvu", 0.0) > 1 for values in found.values()):
        upper.set_yscale("log")
    upper.legend(fontsize=SMALL - 0.5, frameon=False)
    panel(lower, "cross-entropy recovered")
    _by_layer(lower, found, "sae/ce_loss_score", "", "-")
    measured = lower if lower.lines else upper
    measured.set_xlabel("layer", fontsize=SMALL + 1)
    measured.tick_params(labelbottom=True)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels([upper, lower])
    return figure


def _by_layer(axes: Axes, found: ByLayer, metric: str, label: str, dashes: str) -> None:
    values = {layer: of[metric] for layer, of in sorted(found.items()) if metric in of}
    if not values:
        if not label:
            say(axes, "not measured")
        return
    axes.plot(
        list(values),
        list(values.values()),
        dashes,
        marker="o",
        markersize=3,
        label=label,
        color="k",
    )


def _styles(layers: Sequence[int]) -> dict[int, dict[str, Any]]:
    shades = np.linspace(0, _LIGHTEST, max(len(layers), 1))
    colours = colormaps["viridis"](shades)
    return {
        layer: {"color": tuple(colour), "label": f"layer {layer}"}
        for layer, colour in zip(layers, colours, strict=True)
    }


def _some(layers: Sequence[int]) -> list[int]:
    """The first, the last, and evenly between them."""
    places = np.unique(np.linspace(0, len(layers) - 1, min(_NAMED, len(layers))).round())
    return [layers[int(place)] for place in places]
