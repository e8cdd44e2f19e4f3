"""The summary table: one row per model, each measure at its best layer.

Rows are plain values, for the terminal and for Parquet alike; an undefined value is None. The ARI
never stands alone: its row has the noise ratio of the same layer beside it.
"""

from collections.abc import Mapping

from trimtab.metrics.peaks import peaks
from trimtab.report.figures import Diagnosis
from trimtab.report.style import short_names

Cell = str | int | float | None
"""What a table holds."""

_PEAKS = {
    "cosine": "categorical/cosine/mean",
    "gradient": "gradient/spearman/mean",
    "ari": "structural/ari/polarity",
    "r2": "dimensional/r2",
}
"""Column -> the metric whose peak it shows; its layer is the column `COLUMN_layer`."""


def summary(diagnoses: Mapping[str, Diagnosis]) -> list[dict[str, Cell]]:
    """One row per model, in the order given, all with the same columns."""
    names = short_names(diagnoses)
    return [_row(names[model], diagnosis) for model, diagnosis in diagnoses.items()]


def _row(name: str, diagnosis: Diagnosis) -> dict[str, Cell]:
    found = peaks(diagnosis.curves)
    row: dict[str, Cell] = {
        "model": name,
        "layers": len(set().union(*diagnosis.curves.values())),
        "rows": diagnosis.rows,
    }
    for column, metric in _PEAKS.items():
        layer = found.get(f"peak_layer/{metric}")
        row[column] = found.get(f"peak/{metric}")
        row[f"{column}_layer"] = None if layer is None else int(layer)
        if column == "ari":
            noise = diagnosis.curves.get("structural/noise", {})
            row["ari_noise"] = None if layer is None else noise.get(int(layer))
    return row
