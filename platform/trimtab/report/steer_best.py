"""The best layer and strength beside its controls, on the half of the prompts that did not choose it.

A row for each kind of arm at that layer and strength: wins less losses with its 95 % interval. An
edit has an effect of its own where its interval leaves out 0 *and* lies beyond its controls'.
"""

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from trimtab.core.arms import CONTROLS
from trimtab.report.comparison import number
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
    shown = _shown(found, layer, alpha)
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
        low, high = _interval(cell)
        colour = VIRTUE_COLOUR if cell.kind == "aligned" else GREY
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4, solid_capstyle="butt")
        axes.plot(value, place, "o", color=colour, markersize=5)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [named(cell.kind) for cell in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("wins less losses, share of the judged", fontsize=SMALL + 1)
    return figure


def best_rows(found: Sequence[Cell], layer: int, alpha: float) -> list[dict[str, str]]:
    """The unedited model, then the arms as in the figure; intervals in brackets."""
    baseline = [cell for cell in found if (cell.layer, cell.kind) == (layer, "baseline")]
    return [
        {
            "Arm": named(cell.kind),
            "Net rate": _with_ends(cell, "held_out_net"),
            "Win rate": _with_ends(cell, "held_out_win_rate"),
            "Perplexity": _number(cell, "perplexity"),
        }
        for cell in (*baseline, *_shown(found, layer, alpha))
    ]


def best_says(found: Sequence[Cell], layer: int, alpha: float) -> str:
    """Whether the aligned blend has an effect, and one that its controls have not."""
    shown = {cell.kind: cell for cell in _shown(found, layer, alpha)}
    aligned = shown["aligned"]
    low, high = _interval(aligned)
    controls = [_interval(cell) for kind, cell in shown.items() if kind in CONTROLS]
    if low <= 0 <= high:
        says = "No effect was found: the aligned blend's interval holds 0."
    else:
        does = "wins more than it loses" if low > 0 else "loses more than it wins"
        says = f"The aligned blend {does}, {_beside(controls, low, high)}."
    prompts = aligned.measures["held_out_prompts"]
    return (
        f"{says} Rates are against the unedited model, on the {prompts:,.0f} prompts that chose "
        "neither layer nor strength, with 95 % intervals; net is wins less losses. Perplexity is "
        "under the unedited model, on all prompts."
    )


def _beside(controls: Sequence[tuple[float, float]], low: float, high: float) -> str:
    """How an interval without 0 lies to those of its controls."""
    if not controls:
        return "and has no control beside it"
    beyond = all(end < low if low > 0 else start > high for start, end in controls)
    return "beyond every control" if beyond else "but no further than a control may"


def _shown(found: Sequence[Cell], layer: int, alpha: float) -> list[Cell]:
    return [
        cell
        for cell in found
        if (cell.layer, cell.alpha) == (layer, alpha) and "held_out_net" in cell.measures
    ]


def _interval(cell: Cell) -> tuple[float, float]:
    return cell.measures["held_out_net_low"], cell.measures["held_out_net_high"]


def _with_ends(cell: Cell, measure: str) -> str:
    if measure not in cell.measures:
        return "–"
    value, low, high = (cell.measures[f"{measure}{end}"] for end in ("", "_low", "_high"))
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _number(cell: Cell, measure: str) -> str:
    return number(cell.measures[measure]) if measure in cell.measures else "–"
