"""What every tracker holds to, whatever it writes to.

A metric has a listed name and a finite value: runs of different models, jobs and versions lie over
each other only when names agree, and an undefined value is left out rather than logged. Both are
promises of our own code, so breaking one is an assertion. A run ends in one of three ways.
"""

import math
from collections.abc import Sequence

from trimtab.core.names import NAMES
from trimtab.core.tracker import Metric


def checked(metrics: Sequence[Metric]) -> list[Metric]:
    """The same metrics, once each is known to be listed and finite."""
    for metric in metrics:
        assert metric.name in NAMES, f"{metric.name!r} must be listed in trimtab.core.names"
        assert math.isfinite(metric.value), f"an undefined value must not be logged: {metric}"
    return list(metrics)


def status(exception: type[BaseException] | None) -> str:
    """How a run ended, in MLflow's words: FINISHED, KILLED (Ctrl-C) or FAILED."""
    if exception is None:
        return "FINISHED"
    return "KILLED" if issubclass(exception, KeyboardInterrupt) else "FAILED"
