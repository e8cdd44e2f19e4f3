"""What sparsity costs: latents in use against the variance that a reconstruction misses.

One point per finished trial; those that no other trial beats in both ways are the Pareto front,
joined and named. Both axes: less is better.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from trimtab.report.style import (
    GREY,
    SMALL,
    legend,
    model_styles,
    new_figure,
    panel,
    say,
)

_HEIGHT: Final = 3.0
"""Inches."""


def pareto_figure(
    rows: Sequence[Mapping[str, Any]], front: Sequence[int], group: str, x: str, y: str
) -> Figure:
    """L0 against variance unexplained.

    Args:
        rows: trials that have both scores.
        front: which rows are on the front, in order of x.
        group: the column that colours the points; one colour where it is not there.
        x: the column of L0.
        y: the column of the fraction of variance unexplained.
    """
    groups = list(dict.fromkeys(str(row.get(group, "trials")) for row in rows))
    figure = new_figure("What sparsity costs", _HEIGHT, len(groups) if len(groups) > 1 else 0)
    axes = figure.add_subplot()
    panel(axes, f"variance unexplained ({y})", f"{len(rows)} finished trials; lower left is better")
    axes.set_xlabel(f"latents in use per row ({x})", fontsize=SMALL + 1)
    if not rows:
        say(axes, "No finished trial has both scores")
        return figure
    axes.plot(
        [rows[i][x] for i in front],
        [rows[i][y] for i in front],
        color=GREY,
        linewidth=1.0,
        zorder=1,
    )
    styles = {name: dict(style, linestyle="none") for name, style in model_styles(groups).items()}
    for name in groups:
        chosen = [row for row in rows if str(row.get(group, "trials")) == name]
        axes.plot([r[x] for r in chosen], [r[y] for r in chosen], markersize=4.5, **styles[name])
    for i in front:
        axes.annotate(
            rows[i]["trial"],
            (rows[i][x], rows[i][y]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL - 0.5,
            color=GREY,
        )
    if len(groups) > 1:
        legend(figure, styles, axes)
    return figure
