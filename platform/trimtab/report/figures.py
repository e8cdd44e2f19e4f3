"""All figures of a diagnosis, drawn and saved.

Five figures overlay every model; one more per model is its cosine matrix at its best layer. About
half a second a figure.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from trimtab.core.files import writable_folder
from trimtab.metrics.peaks import peaks
from trimtab.report.by_layer import categorical, dimensional, structural
from trimtab.report.poles import cosine_matrix, gradient
from trimtab.report.style import counted, save, short_names


class Diagnosis(NamedTuple):
    """What the figures and tables need to know of one model."""

    curves: Mapping[str, Mapping[int, float]]
    """Metric name -> layer -> value, without the layers where it is undefined."""
    matrices: Mapping[int, Float[np.ndarray, "10 10"]]
    """Layer -> cosines between the centres of the ten poles."""
    rows: int
    """Scenarios that the model was diagnosed on."""


def draw_all(diagnoses: Mapping[str, Diagnosis], folder: Path) -> list[Path]:
    """Draws every figure into a folder and returns the PNG files.

    Args:
        diagnoses: by model name (id or folder), in the order of the legend.

    Raises:
        OutputError: the folder cannot be written.
    """
    writable_folder(folder)
    figures = {**_overlaid(diagnoses), **_matrices(diagnoses)}
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _overlaid(diagnoses: Mapping[str, Diagnosis]) -> dict[str, Figure]:
    curves = {model: diagnosis.curves for model, diagnosis in diagnoses.items()}
    subtitle = counted(list(diagnoses), [diagnosis.rows for diagnosis in diagnoses.values()])
    return {
        "categorical": categorical(curves, subtitle),
        "gradient": gradient(curves, subtitle),
        "structural-polarity": structural(curves, "polarity", subtitle),
        "structural-foundation": structural(curves, "foundation", subtitle),
        "dimensional": dimensional(curves, subtitle),
    }


def _matrices(diagnoses: Mapping[str, Diagnosis]) -> dict[str, Figure]:
    figures = {}
    for model, name in short_names(diagnoses).items():
        diagnosis = diagnoses[model]
        layer = peaks(diagnosis.curves).get("peak_layer/categorical/cosine/mean")
        if layer is None or int(layer) not in diagnosis.matrices:
            continue
        figures[f"matrix-{re.sub(r'[^A-Za-z0-9.]+', '-', name).strip('-')}"] = cosine_matrix(
            diagnosis.matrices[int(layer)],
            title=f"Cosines between the ten poles: {name}",
            subtitle=f"layer {int(layer)}, where virtue and vice differ most; "
            f"n = {diagnosis.rows:,}",
        )
    return figures
