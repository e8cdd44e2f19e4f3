"""A tracker that remembers: tests hand it in and look at what was logged.

It keeps the rules of the real ones, so a test with a recorder fails where a real run would.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trimtab.core.tracker import Metric
from trimtab.track.rules import checked, status


class Input(NamedTuple):
    """A data set that was logged."""

    name: str
    digest: str
    source: str
    profile: Mapping[str, int]


class Recorder:
    """Keeps everything that is logged, in order."""

    def __init__(self, run_id: str = "recorded") -> None:
        self.run_id = run_id
        self.status = "RUNNING"
        self.logged_params: dict[str, object] = {}
        self.logged_tags: dict[str, str] = {}
        self.logged_metrics: list[Metric] = []
        self.inputs: list[Input] = []
        self.artifacts: list[tuple[Path, str]] = []

    def params(self, params: Mapping[str, object]) -> None:
        """See `Tracker`."""
        self.logged_params.update(params)

    def tags(self, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""
        self.logged_tags.update(tags)

    def metrics(self, metrics: Sequence[Metric]) -> None:
        """See `Tracker`."""
        self.logged_metrics += checked(metrics)

    def dataset(self, name: str, digest: str, source: str, profile: Mapping[str, int]) -> None:
        """See `Tracker`."""
        self.inputs.append(Input(name, digest, source, profile))

    def artifact(self, path: Path, folder: str) -> None:
        """See `Tracker`; the file must be there."""
        assert path.is_file(), f"an artifact must be a finished file, but {path} is not there"
        self.artifacts.append((path, folder))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.status = status(kind)
