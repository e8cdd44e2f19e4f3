"""The result of a diagnosis: what was found in one model, and the file it is kept in."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trimtab.core.files import write_json
from trimtab.metrics.peaks import peaks
from trimtab.models.card import ModelCard
from trimtab.report import figures as report
from trimtab.stream.measures import LayerResult

RESULT = "result.json"


class Diagnosis(NamedTuple):
    """What was found in one model."""

    card: ModelCard
    """The model."""
    layers: dict[int, LayerResult]
    """By layer, ascending."""
    costs: dict[str, float]
    """The `extract/...` metrics of the run that computed it."""
    provenance: dict[str, Any]
    """What it was computed from: hashes, counts, plan."""
    folder: Path
    """Where it is kept."""
    reused: bool
    """Whether it had been computed before."""

    @property
    def curves(self) -> dict[str, dict[int, float]]:
        """Metric -> layer -> value."""
        found: dict[str, dict[int, float]] = {}
        for layer, result in self.layers.items():
            for name, value in result.metrics.items():
                found.setdefault(name, {})[layer] = value
        return found

    @property
    def drawn(self) -> report.Diagnosis:
        """As figures and tables take it."""
        matrices = {k: r.matrix for k, r in self.layers.items() if r.matrix is not None}
        return report.Diagnosis(self.curves, matrices, self.provenance["measured_rows"])

    @property
    def peaks(self) -> dict[str, float]:
        """The best values over layers and where they are."""
        return peaks(self.curves)

    def to_json(self) -> dict[str, Any]:
        """Every number, undefined ones left out or null."""
        return {
            "model": self.card._asdict(),
            "metrics": self.curves,
            "peaks": self.peaks,
            "matrices": {layer: _nulls(r.matrix) for layer, r in self.layers.items()},
            "costs": self.costs,
            "provenance": self.provenance,
        }

    def save(self) -> None:
        """Writes `result.json`; with it the diagnosis is finished."""
        write_json(self.folder / RESULT, self.to_json())


def load_diagnosis(folder: Path) -> Diagnosis | None:
    """The finished diagnosis in a folder, or None."""
    path = folder / RESULT
    if not path.is_file():
        return None
    kept = json.loads(path.read_text("utf-8"))
    layers = {
        int(layer): LayerResult(
            {name: by[layer] for name, by in kept["metrics"].items() if layer in by},
            None if matrix is None else np.array(matrix, dtype=np.float64),
        )
        for layer, matrix in kept["matrices"].items()
    }
    card = ModelCard(**kept["model"])
    return Diagnosis(card, layers, kept["costs"], kept["provenance"], folder, reused=True)


def _nulls(matrix: np.ndarray | None) -> list[list[float | None]] | None:
    if matrix is None:
        return None
    return [[float(v) if np.isfinite(v) else None for v in row] for row in matrix]
