"""Runs beside each other: one row per run, one column per number that any of them has.

The headline numbers of every job stand here in the order in which they are read; a run that lacks
one has None there. A rate or mean stands with the ends of its interval, never alone. Rows are plain
values: the terminal and JSON show the same table.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple


class Column(NamedTuple):
    """One number of a run."""

    title: str
    metric: str
    """Its name in `trimtab.core.names`."""
    interval: tuple[str, str] | None = None
    """The metrics that are its ends."""
    counts: bool = False
    """Whether it is a number of prompts."""
    unless_0: bool = False
    """Left out where it is 0 in every run."""


def _with_interval(title: str, name: str) -> Column:
    ends = (f"evaluation/{name}_low/all", f"evaluation/{name}_high/all")
    return Column(title, f"evaluation/{name}/all", ends)


HEADLINES: Final = (
    _with_interval("Win rate", "win_rate"),
    Column("Net rate", "steer/net", ("steer/net_low", "steer/net_high")),
    Column("Ties", "evaluation/ties/all", counts=True),
    Column("Failed", "evaluation/failed/all", counts=True),
    _with_interval("Safety", "safety"),
    Column("PSC1", "evaluation/psc1/all", counts=True),
    Column("Safety failed", "evaluation/safety_failed/all", counts=True, unless_0=True),
    _with_interval("Emotion", "emotion"),
    Column("PSC2", "evaluation/psc2/all", counts=True),
    Column("Emotion failed", "evaluation/emotion_failed/all", counts=True, unless_0=True),
    Column("Perplexity", "fluency/perplexity"),
    Column("Repetition", "fluency/repetition"),
    Column("Empty", "fluency/empty"),
    Column("Cut off", "fluency/truncated"),
    Column("FVU", "sae/fvu"),
    Column("L0", "sae/l0"),
    Column("Alive", "sae/frac_alive"),
    Column("CE score", "sae/ce_loss_score"),
    Column("Cosine", "peak/categorical/cosine/mean"),
    Column("Gradient", "peak/gradient/spearman/mean"),
    Column("ARI", "peak/structural/ari/polarity"),
    Column("R2", "peak/dimensional/r2"),
)

Row = Mapping[str, object]
_NONE: Final = "–"


class Seen(NamedTuple):
    """A run, as far as a table goes."""

    name: str
    run_id: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def columns(runs: Sequence[Seen], extra: Sequence[str] = ()) -> list[Column]:
    """The headlines that any run has, then the metrics asked for by name."""
    known = [column for column in HEADLINES if any(_tells(column, run) for run in runs)]
    shown = {column.metric for column in known}
    return known + [Column(name, name) for name in extra if name not in shown]


def _tells(column: Column, run: Seen) -> bool:
    value = run.metrics.get(column.metric)
    return value is not None and not (column.unless_0 and value == 0)


def differing(runs: Sequence[Seen], among: Sequence[str]) -> list[str]:
    """Of these parameters, those that any run has and that are not the same in all."""
    return [name for name in among if len({run.params.get(name) for run in runs}) > 1]


def cell(run: Seen, column: Column) -> str:
    """A number as it is printed, with its interval; a dash where there is none."""
    value = run.metrics.get(column.metric)
    if value is None or math.isnan(value):
        return _NONE
    if column.counts:
        return f"{value:.0f}"
    ends = [run.metrics.get(name) for name in column.interval or ()]
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def number(value: float) -> str:
    """Three digits, counts as they are, `inf`, and a dash for what is no number."""
    if math.isnan(value):
        return _NONE
    if math.isfinite(value) and value == int(value) and abs(value) >= 1:
        return f"{int(value)}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"
