"""The best layer and strength beside its controls, on the half of the prompts that did not choose it.

A row for each kind of arm at that layer and strength: wins less losses with its 95 % interval. An
edit has an effect of its own where its interval leaves out 0 *and* its controls'.
"""

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from trimtab.report.steer import Cell, named
from trimtab.report.style import GREY, SMALL, VIRTUE_COLOUR, new_figure, panel, say

_ROW: Final = 0.28
"""Inches."""


def best_figure(found: Sequence[Cell], layer: int, alpha: float) -> Figure:
    """The arms of one layer and strength, top to bottom as in the heat maps.

    Args:
        found: all that was measured.
        layer: of the best.
        alpha: of the best.
    """
    shown = [
        cell
        for cell in found
        if (cell.layer, cell.alpha) == (layer, alpha) and "held_out_net" in cell.measures
    ]
    figure = new_figure(
        f"Layer {layer}, alpha {alpha:g}, on the held-out half", 0.9 + _ROW * len(shown), 0
    )
    axes = figure.add_subplot()
    prompts = {int(cell.measures["held_out_prompts"]) for cell in shown}
    panel(axes, "", f"n = {max(prompts)} prompts; 95 % intervals" if prompts else "")
    if not shown:
        say(axes, "No layer was measured to its end")
        return figure
    for place, cell in enumerate(reversed(shown)):
        value = cell.measures["held_out_net"]
        low, high = (cell.measures[f"held_out_net_{end}"] for end in ("low", "high"))
        colour = VIRTUE_COLOUR if cell.kind == "aligned" else GREY
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4, solid_capstyle="butt")
        axes.plot(value, place, "o", color=colour, markersize=5)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [named(cell.kind) for cell in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("wins less losses, share of the judged", fontsize=SMALL + 1)
    return figure
