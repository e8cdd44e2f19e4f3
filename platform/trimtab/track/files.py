"""A tracker of plain files: a run that can be read with a text editor, without a server.

    ROOT/<experiment>/<run name>-<number>/
        run.json         status, and the data sets that went in
        params.json, tags.json
        metrics.jsonl    one {"name", "value", "step"} a line
        artifacts/<folder>/<file>

It has no user interface and no search; it is for machines where MLflow is not wanted.
"""

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core.files import finished_file, writable_folder, write_json
from trimtab.core.tracker import Metric
from trimtab.track.rules import checked, status


class FileTracker:
    """One run in a folder of its own."""

    def __init__(self, root: Path, experiment: str, run_name: str) -> None:
        """Names the run; the folder is made when the tracker is entered.

        Args:
            root: the folder of all experiments.
            experiment: for example `trimtab/diagnose`; a slash makes a folder.
            run_name: what the run is called; need not be unique, a `/` in it becomes `-`.
        """
        self.run_id = f"{run_name.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
        self.path = root / experiment / self.run_id
        self._params: dict[str, object] = {}
        self._tags: dict[str, str] = {}
        self._datasets: list[dict[str, Any]] = []

    def params(self, params: Mapping[str, object]) -> None:
        """See `Tracker`."""
        self._params.update(params)
        write_json(self.path / "params.json", self._params)

    def tags(self, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""
        self._tags.update(tags)
        write_json(self.path / "tags.json", self._tags)

    def metrics(self, metrics: Sequence[Metric]) -> None:
        """See `Tracker`."""
        lines = [json.dumps(metric._asdict()) + "\n" for metric in checked(metrics)]
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def dataset(self, name: str, digest: str, source: str, profile: Mapping[str, int]) -> None:
        """See `Tracker`."""
        counts = dict(profile)
        self._datasets.append({"name": name, "digest": digest, "source": source, "profile": counts})
        self._write_run("RUNNING")

    def artifact(self, path: Path, folder: str) -> None:
        """See `Tracker`."""
        target = writable_folder(self.path / "artifacts" / folder) / path.name
        with finished_file(target) as temporary:
            shutil.copyfile(path, temporary)

    def __enter__(self) -> "FileTracker":
        writable_folder(self.path)
        self._write_run("RUNNING")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._write_run(status(kind))

    def _write_run(self, state: str) -> None:
        write_json(self.path / "run.json", {"status": state, "datasets": self._datasets})
