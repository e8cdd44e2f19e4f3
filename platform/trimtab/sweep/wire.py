"""A report as plain values and back: how it travels from a trial to the driver and onto disk."""

from typing import Any

from trimtab.core.tracker import Metric
from trimtab.sweep.study import Report


def packed(report: Report) -> dict[str, Any]:
    """What JSON can write."""
    return {
        "share": report.share,
        "metrics": {run: [list(metric) for metric in some] for run, some in report.metrics.items()},
        "scores": dict(report.scores),
    }


def unpacked(tree: dict[str, Any]) -> Report:
    """What was packed."""
    metrics = {run: [Metric(*one) for one in some] for run, some in tree["metrics"].items()}
    return Report(tree["share"], metrics, tree["scores"])
