"""The figures that every sweep has: its trials across their settings, and which settings mattered.

Parallel coordinates: one line per trial, one axis per setting that varied, the objective at the
right and as colour. A trial that did not run to its end is grey and has no objective, for what it
stood at half-way is not comparable. A setting whose values span a factor of 30 has a logarithmic axis; one
that is no number has its values evenly spaced, in order of first appearance.

Inselberg 1985 (parallel coordinates).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from trimtab.core.files import writable_folder
from trimtab.report.style import GREY, SMALL, VIRTUE_COLOUR, new_figure, panel, save, say

_FINISHED: Final = "finished"
_LOG_SPAN: Final = 30.0
_MOST_AXES: Final = 8
_MOST_TICKS: Final = 6
_APART: Final = 0.06
"""Of an axis' height: two labels nearer than this would lie over each other."""
_HEIGHT: Final = 2.8
"""Inches."""

Row = Mapping[str, Any]


class _Scale(NamedTuple):
    """One axis of parallel coordinates."""

    places: list[float]
    """Of each trial, 0 at the bottom to 1 at the top."""
    ticks: list[tuple[float, str]]
    """Place and label."""


def draw_sweep(
    rows: Sequence[Row],
    prefix: str,
    metric: str,
    importance: Mapping[str, float],
    folder: Path,
) -> list[Path]:
    """Draws the figures of a sweep and returns the PNG files.

    Args:
        rows: trials, finished ones first and best first, each with `ending` and `objective`.
        prefix: what the columns of settings begin with.
        metric: the objective's name.
        importance: share of the objective's variance by setting, most first.
        folder: where they go.

    Raises:
        OutputError: the folder cannot be written.
    """
    writable_folder(folder)
    ended = [row for row in rows if row["ending"] == _FINISHED]
    return [
        save(parallel_coordinates(rows, prefix, metric), folder / "parallel-coordinates.png"),
        save(importance_bars(importance, metric, len(ended)), folder / "importance.png"),
    ]


def parallel_coordinates(rows: Sequence[Row], prefix: str, metric: str) -> Figure:
    """One line per trial across the settings that varied; the best is drawn thick."""
    figure = new_figure("Trials across their settings", _HEIGHT, 0)
    axes = figure.add_subplot()
    varied = _varied(rows, prefix)[: _MOST_AXES - 1]
    ended = [row for row in rows if row["ending"] == _FINISHED]
    if not varied or not ended:
        panel(axes, "", _counted(rows, ended))
        say(axes, "No setting varied" if ended else "No trial ran to its end")
        return figure
    settings = [_scale([row[column] for row in rows]) for column in varied]
    values = [row["objective"] for row in ended]
    last = _scale(values)
    colours = colormaps["viridis"]
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1)
    for i in reversed(range(len(rows))):
        places = [scale.places[i] for scale in settings]
        if i >= len(ended):
            axes.plot(range(len(varied)), places, color="0.8", linewidth=0.8, zorder=1)
            continue
        axes.plot(
            range(len(varied) + 1),
            [*places, last.places[i]],
            color=colours(norm(values[i])),
            linewidth=2.6 if i == 0 else 1.0,
            marker="o",
            markersize=4 if i == 0 else 2.5,
            label="best" if i == 0 else None,
        )
    labels = [*(column.removeprefix(prefix) for column in varied), metric]
    _dress(axes, labels, [*settings, last])
    panel(axes, "", _counted(rows, ended))
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.02, aspect=30)
    bar.set_label(metric, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL - 1)
    return figure


def importance_bars(importance: Mapping[str, float], metric: str, num_trials: int) -> Figure:
    """Share of the objective's variance that each setting explains by itself."""
    figure = new_figure(f"What {metric} depends on", max(1.2, 0.3 * len(importance) + 0.8), 0)
    axes = figure.add_subplot()
    panel(axes, "", f"{num_trials} finished trials; functional ANOVA on a random forest")
    if not importance:
        say(axes, "Too few finished trials to tell")
        return figure
    if len(importance) == 1:
        say(axes, "Only one setting varied")
        return figure
    names = list(importance)[::-1]
    axes.barh(names, [importance[name] for name in names], color=VIRTUE_COLOUR, height=0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the variance over the space", fontsize=SMALL + 1)
    axes.grid(visible=False, axis="y")
    for place, name in enumerate(names):
        axes.text(
            importance[name] + 0.01,
            place,
            f"{importance[name]:.2f}",
            va="center",
            fontsize=SMALL,
            color=GREY,
        )
    return figure


def _dress(axes: Axes, labels: Sequence[str], scales: Sequence[_Scale]) -> None:
    axes.set_xticks(range(len(labels)), [_wrapped(label) for label in labels])
    axes.set_yticks([])
    axes.set_ylim(-0.06, 1.06)
    axes.set_xlim(-0.25, len(labels) - 0.75)
    for place, scale in enumerate(scales):
        axes.axvline(place, color=GREY, linewidth=0.8, zorder=0)
        for y, text in scale.ticks:
            axes.annotate(
                text,
                (place, y),
                xytext=(3, 2),
                textcoords="offset points",
                fontsize=SMALL - 1,
                color="0.25",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.4},
            )


def _varied(rows: Sequence[Row], prefix: str) -> list[str]:
    columns = [column for column in (rows[0] if rows else {}) if column.startswith(prefix)]
    return [column for column in columns if len({repr(row[column]) for row in rows}) > 1]


def _scale(values: Sequence[Any]) -> _Scale:
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return _named_scale(values)
    numbers = [float(v) for v in values]
    low, high = min(numbers), max(numbers)
    logarithmic = low > 0 and high / low >= _LOG_SPAN
    ends = np.log([low, high]) if logarithmic else np.array([low, high], dtype=float)
    span = float(ends[1] - ends[0]) or 1.0

    def place(value: float) -> float:
        return float(((math.log(value) if logarithmic else value) - ends[0]) / span)

    distinct = sorted(set(numbers))
    if len(distinct) <= _MOST_TICKS:
        shown = distinct
    else:
        even = np.linspace(ends[0], ends[1], 4)
        shown = [float(x) for x in (np.exp(even) if logarithmic else even)]
    return _Scale([place(v) for v in numbers], _apart([(place(v), _said(v)) for v in shown]))


def _apart(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Without those too near to one that stays: both ends stay, then from below."""
    kept, top = ticks[:1], ticks[-1]
    for tick in ticks[1:-1]:
        if min(tick[0] - kept[-1][0], top[0] - tick[0]) >= _APART:
            kept.append(tick)
    return kept if kept == ticks else [*kept, top]


def _named_scale(values: Sequence[Any]) -> _Scale:
    names = list(dict.fromkeys(str(value) for value in values))
    last = max(1, len(names) - 1)
    return _Scale(
        [names.index(str(value)) / last for value in values],
        [(i / last, name) for i, name in enumerate(names)],
    )


def _said(value: float) -> str:
    said = f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"
    return said.replace("-", "−")


def _wrapped(label: str) -> str:
    """A path over two lines, so that neighbours do not touch."""
    end = max(label.rfind("."), label.rfind("/"))
    return f"{label[:end]}\n{label[end + 1 :]}" if end > 0 else label


def _counted(rows: Sequence[Row], ended: Sequence[Row]) -> str:
    others = len(rows) - len(ended)
    grey = f", {others} that did not (grey)" if others else ""
    return f"{len(ended)} trials that ran to their end{grey}; the thick line is the best"
