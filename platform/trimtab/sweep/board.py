"""A sweep in MLflow: a parent run, and below it one run per trial (or several, as the study says).

The driver is the only writer. A trial's process neither imports MLflow (2 s, 150 MB) nor needs to
reach its server, and a SQLite store is never written to by two processes. A report is one
`log_batch` a run.

Every run is created with the tags `sweep` and `trial`, in one call, and is found by them again:
so no driver that is killed, at any moment, leaves a run that its successor would not find. A run
that is not in the store though the journal tells of its trial (another store, a deleted run) is
made and told the whole story.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from trimtab.core.config import flat
from trimtab.core.tracker import Metric
from trimtab.stream.publish import git_commit
from trimtab.sweep.journal import Ending, Story
from trimtab.sweep.space import trial_record
from trimtab.sweep.spec import SweepConfig
from trimtab.sweep.study import Prepared, Report, Study
from trimtab.track.mlflow import Found, MlflowTracker, find_runs

_STATES: Mapping[Ending | None, str] = {
    "finished": "FINISHED",
    "stopped": "FINISHED",  # as the scheduler wanted; the tag `ending` tells it from the others
    "failed": "FAILED",
    "killed": "KILLED",
    None: "KILLED",  # interrupted; it will go on
}
_ERROR_LENGTH = 4000
_PUBLISHED = "published"


class Board:
    """The runs of one sweep, while a driver works on it."""

    def __init__(
        self, config: SweepConfig, study: Study[Any], prepared: Prepared, uri: str, digest: str
    ) -> None:
        """Finds what an earlier call left.

        Args:
            digest: the sweep's content hash, by which its runs are found.

        Raises:
            TrackError: the store does not answer.
        """
        self._config = config
        self._study = study
        self._prepared = prepared
        self._uri = uri
        self._tags = {"sweep": digest, "git_commit": git_commit(), **prepared.tags}
        found = find_runs(uri, study.experiment, {"sweep": digest})
        self._children = {(r.tags["trial"], r.tags["part"]): r for r in found if r.parent}
        before = next((run for run in found if not run.parent), None)
        name = f"{config.study} {digest[:8]}"
        self.parent = MlflowTracker(
            study.experiment,
            name,
            uri,
            tags=self._tags | {"asks": config.asks},
            run_id=before.run_id if before else "",
        )
        self._is_new = before is None
        self.is_published = before is not None and before.tags.get(_PUBLISHED) == "true"
        """Whether this store has the summary of the whole sweep."""
        self._open: dict[str, dict[str, MlflowTracker]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Board":
        self._stack.enter_context(self.parent)
        if self._is_new:
            told = self._config.model_dump(mode="json", exclude={"out", "tracking_uri"})
            self.parent.params(flat(told))
            self.parent.dataset(*self._prepared.dataset)
        return self

    def __exit__(self, *why: Any) -> None:  # noqa: ANN401 (as contextlib has it)
        for name in list(self._open):
            self._close(name, None)
        self._stack.__exit__(*why)

    def began(self, story: Story) -> None:
        """Opens the runs of a trial, anew or again."""
        if story.name in self._open:
            return
        trial = trial_record(self._study.kind, self._config.base, story.point)
        parts = self._study.runs(trial)
        self._open[story.name] = {
            part: self._run(story, part, params, len(parts)) for part, params in parts.items()
        }

    def reported(self, name: str, report: Report) -> None:
        """Logs a report: one batch for each run that it has metrics for."""
        for part, metrics in report.metrics.items():
            self._open[name][part].metrics(metrics)

    def ended(self, story: Story) -> None:
        """Closes the runs of a trial, with how it ended."""
        tags = {"ending": story.ending or "", "share": f"{story.share:.3g}"}
        if story.error:
            tags["error"] = story.error[:_ERROR_LENGTH]
        for run in self._open[story.name].values():
            run.tags(tags)
        self._close(story.name, story.ending)

    def told_before(self, story: Story) -> bool:
        """Whether the store has the runs of a trial that an earlier call had ended."""
        return any(name == story.name for name, _ in self._children)

    def artifacts(self, name: str, folder: Path) -> None:
        """Logs the files of a trial to its first run, with the folders they lie in."""
        run = next(run for (trial, _), run in self._children.items() if trial == name)
        tracker = MlflowTracker(self._study.experiment, "", self._uri, run_id=run.run_id)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            tracker.artifact(path, str(Path("artifacts") / path.relative_to(folder).parent))

    def run_id(self, name: str) -> str:
        """The id of a trial's first run."""
        return next((r.run_id for (trial, _), r in self._children.items() if trial == name), "")

    def summary(self, metrics: list[Metric], tags: Mapping[str, str], files: list[Path]) -> None:
        """What the parent says of the whole: the best trial's scores, counts, tables, figures."""
        self.parent.metrics(metrics)
        for path in files:
            self.parent.artifact(path, "figures" if path.suffix == ".png" else "tables")
        self.parent.tags({**tags, _PUBLISHED: "true"})

    def _run(
        self, story: Story, part: str, params: Mapping[str, object], num_parts: int
    ) -> MlflowTracker:
        before = self._children.get((story.name, part))
        label = _label(story.point) if num_parts == 1 else f"{_label(story.point)} {part}".strip()
        tags = self._tags | {"trial": story.name, "part": part}
        run = MlflowTracker(
            self._study.experiment,
            f"{story.name} {label}",
            self._uri,
            tags=tags,
            parent=self.parent.run_id,
            run_id=before.run_id if before else "",
        )
        run.__enter__()
        if before is None:
            run.params({**flat(story.point), **params})
            for report in story.reports:
                run.metrics(report.metrics.get(part, []))
            self._children[story.name, part] = Found(run.run_id, "", "RUNNING", "", tags, {}, {})
        return run

    def _close(self, name: str, ending: Ending | None) -> None:
        for run in self._open.pop(name).values():
            run.end(_STATES[ending])


def _label(point: Mapping[str, Any]) -> str:
    """A point in few words: `k=32 learning_rate=0.001`."""
    return " ".join(
        f"{path.rpartition('.')[2]}={value:.3g}"
        if isinstance(value, float)
        else f"{path.rpartition('.')[2]}={value}"
        for path, value in flat(point).items()
    )
