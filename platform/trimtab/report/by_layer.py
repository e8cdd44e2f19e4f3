"""Figures with the layer along x, all models overlaid: cosine, ARI with noise, R2.

Models of one depth share an axis of layers; models of different depths are laid over each other by
relative depth. A layer where a metric is undefined leaves a gap, never a guessed value.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trimtab.core.poles import FOUNDATIONS
from trimtab.report.style import SMALL, legend, model_styles, new_figure, panel, say

Curves = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Model name -> metric name -> layer -> value; an undefined value is simply not there."""

_MOST_WITH_THIN_LINES: Final = 3
_MOST_WITH_THICK_LINES: Final = 7
_R2_FLOOR: Final = -0.5
"""R2 falls to -50,000 where activations are massive; below this it is said in words."""


def categorical(curves: Curves, subtitle: str) -> Figure:
    """Cosine between the centres of virtue and vice by layer.

    Thick lines are the mean over foundations; up to three models also get a thin line for each
    foundation.
    """
    figure = new_figure("Virtue and vice: cosine of their centres", 2.8, len(curves))
    axes = figure.add_subplot()
    thin = len(curves) <= _MOST_WITH_THIN_LINES
    panel(axes, "cosine", f"{subtitle}; mean of foundations" + (", thin: each" if thin else ""))
    if thin:
        for foundation in FOUNDATIONS:
            _thin_lines(axes, curves, f"categorical/cosine/{foundation}")
    _lines(axes, curves, "categorical/cosine/mean", "The cosine")
    _finish(figure, [axes], curves)
    return figure


def structural(curves: Curves, grouping: str, subtitle: str) -> Figure:
    """ARI of the clusters against a grouping, above the ratio of rows that no cluster took.

    The two belong together: ARI is measured on clustered rows only, and rises as noise rises.

    Args:
        grouping: one of `trimtab.core.names.GROUPINGS`.
    """
    title = f"Clusters against {grouping.replace('_', ' x ')}, with the rows left out as noise"
    figure = new_figure(title, 3.9, len(curves))
    upper, lower = figure.subplots(2, 1, sharex=True)
    panel(upper, "adjusted Rand index", subtitle)
    _lines(upper, curves, f"structural/ari/{grouping}", "The Rand index")
    panel(lower, "noise ratio")
    lower.set_ylim(-0.03, 1.03)
    _lines(lower, curves, "structural/noise", "The noise ratio")
    _finish(figure, [upper, lower], curves)
    return figure


def dimensional(curves: Curves, subtitle: str) -> Figure:
    """R2 of the linear readout of the ten-dimensional moral vector, on held-out rows."""
    figure = new_figure("Linear readout of the moral vector", 2.8, len(curves))
    axes = figure.add_subplot()
    values = [v for metrics in curves.values() for v in metrics.get("dimensional/r2", {}).values()]
    low, high = min(values, default=0.0), max(values, default=0.0)
    cut = low < _R2_FLOOR
    below = f"; values down to {low:,.2f} are cut off" if cut else ""
    panel(axes, "held-out R²", subtitle + below.replace("-", "−"))
    _lines(axes, curves, "dimensional/r2", "R²")
    if values:
        axes.axhline(0, color="0.6", linewidth=0.8)
    if cut:
        axes.set_ylim(_R2_FLOOR, max(high, 0.0) + 0.05)
    _finish(figure, [axes], curves)
    return figure


def _lines(axes: Axes, curves: Curves, metric: str, what: str) -> None:
    if not any(metrics.get(metric) for metrics in curves.values()):
        say(axes, f"{what} is undefined at every layer")
        return
    positions = _positions(curves)
    width = 1.3 if len(curves) <= _MOST_WITH_THICK_LINES else 0.8
    for i, (model, style) in enumerate(model_styles(curves).items()):
        y = _values(curves[model], metric)
        every = max(1, len(y) // 8)
        marked = _marked(y, first=i % every, every=every)
        axes.plot(positions[model], y, linewidth=width, markersize=4, markevery=marked, **style)


def _marked(y: Float[np.ndarray, " n"], first: int, every: int) -> list[int]:
    # A value between two gaps has no line to be seen by, so it always gets its marker.
    defined = np.pad(~np.isnan(y), 1)
    alone = defined[1:-1] & ~defined[:-2] & ~defined[2:]
    return sorted({*range(first, len(y), every), *np.flatnonzero(alone).tolist()})


def _thin_lines(axes: Axes, curves: Curves, metric: str) -> None:
    positions = _positions(curves)
    for model, style in model_styles(curves).items():
        y = _values(curves[model], metric)
        axes.plot(positions[model], y, color=style["color"], linewidth=0.6, alpha=0.35)


def _finish(figure: Figure, panels: Sequence[Axes], curves: Curves) -> None:
    one_depth = len({tuple(_layers(metrics)) for metrics in curves.values()}) <= 1
    label = "layer" if one_depth else "relative depth (layer / deepest layer)"
    panels[-1].set_xlabel(label, fontsize=SMALL + 1)
    if one_depth:
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels(panels)
    legend(figure, model_styles(curves), panels[-1])


def _layers(metrics: Mapping[str, Mapping[int, float]]) -> list[int]:
    return sorted(set().union(*metrics.values()))


def _values(metrics: Mapping[str, Mapping[int, float]], metric: str) -> Float[np.ndarray, " n"]:
    defined = metrics.get(metric, {})
    return np.array([defined.get(layer, np.nan) for layer in _layers(metrics)])


def _positions(curves: Curves) -> dict[str, Float[np.ndarray, " n"]]:
    layers = {model: np.array(_layers(m), float) for model, m in curves.items()}
    if len({tuple(of_model) for of_model in layers.values()}) <= 1:
        return layers
    return {model: of / max(of.max(initial=1), 1) for model, of in layers.items()}
