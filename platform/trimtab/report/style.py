"""How every figure looks: one colour and marker per model, quiet axes, a legend below.

Drawn through matplotlib's object-oriented interface on Agg, never pyplot, so that a figure leaves
no state behind in the process that draws it. Half a page wide (5.4 inches). The colours are Okabe
and Ito's for colour-blind readers without the yellow, which white paper swallows. Seven colours and eight markers,
each taken in turn, make 56 pairs before one comes back.

Okabe and Ito 2008, Color Universal Design.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trimtab.core.files import finished_file

WIDTH: Final = 5.4
"""Inches."""
SMALL: Final = 7.0
"""Points; ticks, legend and labels."""
TITLE: Final = 9.0
"""Points."""
GREY: Final = "0.45"
VIRTUE_COLOUR: Final = "#0072B2"
VICE_COLOUR: Final = "#D55E00"

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_DPI: Final = 160


def short_names(models: Iterable[str]) -> dict[str, str]:
    """Each model's name without its owner or folder, unless two would then be called the same."""
    short = {model: model.rstrip("/").rpartition("/")[2] for model in models}
    names = list(short.values())
    return {model: name if names.count(name) == 1 else model for model, name in short.items()}


def model_styles(models: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Line properties of each model, by its place in the order given; up to 56 are all different."""
    names = short_names(models)
    return {
        model: {
            "label": names[model],
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
        }
        for i, model in enumerate(names)
    }


def new_figure(title: str, height: float, num_models: int) -> Figure:
    """An empty figure with its title.

    Args:
        height: inches of the panels; the legend's rows are added to it.
        num_models: entries that the legend will have.
    """
    rows = -(-num_models // _legend_columns(num_models))
    figure = Figure(figsize=(WIDTH, height + 0.14 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE, fontweight="bold")
    return figure


def panel(axes: Axes, ylabel: str, subtitle: str = "") -> None:
    """Quiet spines, small ticks, a light grid, the subtitle at the upper left."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(GREY)
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.grid(visible=True, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel(ylabel, fontsize=SMALL + 1)
    axes.set_title(subtitle, fontsize=SMALL, loc="left", color=GREY)


def legend(figure: Figure, styles: Mapping[str, Mapping[str, Any]], axes: Axes) -> None:
    """One entry per model, below the panels."""
    handles = [
        axes.plot([], [], markersize=4, linewidth=1.2, **style)[0] for style in styles.values()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=_legend_columns(len(handles)),
        fontsize=SMALL - 0.5,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.2,
        labelspacing=0.3,
    )


def say(axes: Axes, message: str) -> None:
    """Writes into an empty panel why it is empty."""
    axes.tick_params(bottom=False, labelbottom=False, left=False, labelleft=False)
    axes.grid(visible=False)
    axes.text(
        0.5,
        0.5,
        message,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=TITLE,
        color=GREY,
    )


def counted(models: Sequence[str], rows: Sequence[int]) -> str:
    """Who and how many a figure shows: `3 models, n = 16,315`."""
    who = f"{len(models)} models" if len(models) != 1 else short_names(models)[models[0]]
    low, high = min(rows, default=0), max(rows, default=0)
    return f"{who}, n = {low:,}" + (f" to {high:,}" if high != low else "")


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG at 160 dpi, finished or not at all."""
    with finished_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
    return path


def _legend_columns(num_models: int) -> int:
    return min(num_models, 3) or 1
