"""Learning curves of a training of several layers: kept whole, and read as a run's metrics.

A point is what one layer reported at one optimiser step. A tracker has one value a step, so that it
gets the mean over layers; the table keeps them apart.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from trimtab.core.files import finished_file
from trimtab.core.tracker import Metric

SCHEMA = {"step": pl.Int64, "layer": pl.Int64, "metric": pl.String, "value": pl.Float64}


class Point(NamedTuple):
    """One value of one layer; the columns of the table."""

    step: int
    """Optimiser step."""
    layer: int
    metric: str
    """A name of `trimtab.core.names`."""
    value: float


def points(step: int, metrics: Mapping[int, Mapping[str, float]]) -> Iterator[Point]:
    """What every layer reported at a step; what was undefined then is left out."""
    for layer, named in metrics.items():
        for metric, value in named.items():
            if math.isfinite(value):
                yield Point(step, layer, metric, value)


def over_layers(curves: Sequence[Point]) -> list[Metric]:
    """The mean over layers of each metric at each step, in the order of the steps."""
    values: dict[tuple[int, str], list[float]] = {}
    for point in curves:
        values.setdefault((point.step, point.metric), []).append(point.value)
    return [Metric(name, sum(v) / len(v), step) for (step, name), v in sorted(values.items())]


def by_metric(curves: Sequence[Point]) -> dict[str, dict[int, dict[int, float]]]:
    """Metric -> layer -> step -> value, as figures take them."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for point in curves:
        found.setdefault(point.metric, {}).setdefault(point.layer, {})[point.step] = point.value
    return found


def save_curves(path: Path, curves: Sequence[Point]) -> None:
    """Writes the table as Parquet.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    with finished_file(path) as temporary:
        pl.DataFrame(curves, schema=SCHEMA, orient="row").write_parquet(temporary)


def load_curves(path: Path) -> list[Point]:
    """Reads what `save_curves` wrote."""
    return [Point(*row) for row in pl.read_parquet(path).iter_rows()]
