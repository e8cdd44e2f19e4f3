"""One MLflow run for one training, whatever becomes of the process.

Beside the training lies which run is its own in which store, and up to which step its curve is in
it. A training that was cut short goes on in the same run, and reports no step twice; a finished
one that another store does not have yet is logged there whole.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from trimtab.core.files import write_json
from trimtab.core.tracker import Metric, Tracker
from trimtab.stream.curves import Point, over_layers

LOGGED: Final = "logged.json"


class TrainLog:
    """The run of one training in one store; enter it to write."""

    def __init__(
        self,
        folder: Path,
        uri: str,
        tracker_for: Callable[[str], Tracker],
        exists: Callable[[str], bool],
    ) -> None:
        """Reads what was logged before.

        Args:
            folder: the training's own.
            uri: names the tracking store.
            tracker_for: a tracker for a run to be gone on with, by its id; "" begins a new one.
            exists: whether the store has a run of an id.

        Raises:
            TrackError: the store does not answer.
        """
        self._path = folder / LOGGED
        self._uri = uri
        entry = self._entries().get(uri)
        self._entry: dict[str, Any] = (
            entry if entry and exists(entry["run"]) else {"run": "", "step": 0, "finished": False}
        )
        self._tracker_for = tracker_for

    @property
    def run_id(self) -> str:
        """The run's id; empty before it is begun."""
        return self._entry["run"]

    @property
    def finished(self) -> bool:
        """Whether all that there is to log is logged."""
        return self._entry["finished"]

    def __enter__(self) -> "TrainLog":
        self._tracker = self._tracker_for(self.run_id)
        self._tracker.__enter__()
        self._write(run=self._tracker.run_id)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._tracker.__exit__(kind, *rest)

    def begin(
        self,
        tags: Mapping[str, str],
        params: Mapping[str, object],
        dataset: tuple[str, str, str, Mapping[str, int]],
    ) -> None:
        """What is known from the start; said once."""
        if self._entry["step"] == 0:
            self._tracker.tags(tags)
            self._tracker.params(params)
            self._tracker.dataset(*dataset)

    def follow(self, curves: Sequence[Point]) -> None:
        """The curve's points that are not logged yet."""
        new = [point for point in curves if point.step > self._entry["step"]]
        if new:
            self._tracker.metrics(over_layers(new))
            self._write(step=max(point.step for point in new))

    def finish(
        self, metrics: Mapping[int, Mapping[str, float]], files: Sequence[tuple[Path, str]]
    ) -> None:
        """The quality by layer, and finished files with the artifact folder of each."""
        self._tracker.metrics(
            [
                Metric(name, value, layer)
                for layer, named in metrics.items()
                for name, value in named.items()
            ]
        )
        for path, folder in files:
            self._tracker.artifact(path, folder)
        self._write(finished=True)

    def _entries(self) -> dict[str, dict[str, Any]]:
        return json.loads(self._path.read_text("utf-8")) if self._path.is_file() else {}

    def _write(self, **changes: Any) -> None:  # noqa: ANN401 (values of JSON)
        self._entry = self._entry | changes
        write_json(self._path, self._entries() | {self._uri: self._entry})
