"""What a tracker can do; MLflow is one of them (`trimtab.track.mlflow`).

A tracker writes one run. Lower rooms and drivers see only this protocol, so that the same driver
writes to an MLflow server, to plain files, or into a test's recorder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable


class Metric(NamedTuple):
    """One value of a metric."""

    name: str
    """A name of `trimtab.core.names`."""
    value: float
    """Finite; a value that is undefined is not logged at all."""
    step: int
    """The layer for a measure by layer, 0 for a value of the whole run."""


@runtime_checkable
class Tracker(Protocol):
    """One run: enter it, log to it, leave it (as failed if an exception passes)."""

    @property
    def run_id(self) -> str:
        """Names the run in its store."""
        ...

    def params(self, params: Mapping[str, object]) -> None:
        """The configuration, flat; logged once."""
        ...

    def tags(self, tags: Mapping[str, str]) -> None:
        """What a run is searched and grouped by."""
        ...

    def metrics(self, metrics: Sequence[Metric]) -> None:
        """All of a report's metrics in one batch."""
        ...

    def dataset(self, name: str, digest: str, source: str, profile: Mapping[str, int]) -> None:
        """The data set as an input of the run: its content hash, where it is, its counts."""
        ...

    def artifact(self, path: Path, folder: str) -> None:
        """A finished file (figure as PNG, table as Parquet, manifest as JSON)."""
        ...

    def __enter__(self) -> "Tracker": ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...
