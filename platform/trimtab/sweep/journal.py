"""What happened in a sweep so far: one line of JSON for each event, appended by the driver.

The journal is all that a sweep resumes from, apart from the trials' own saved states: which trials
there are and their points, every report in the order it came, and how each trial ended. Scheduler,
searcher and MLflow are brought up to date by telling them the same story again, so a driver that
was killed at any moment has lost nothing that it had been told. (Ray Tune's own snapshots come
every 10 s at best, and leave out what its scheduler knows.)

A line that was cut short by a full disk or a power cut is the last one, and is left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from trimtab.core.files import writable_folder
from trimtab.core.lock import lock
from trimtab.sweep.study import Report
from trimtab.sweep.wire import packed, unpacked

FILE: Final = "journal.jsonl"

Ending = Literal["finished", "stopped", "failed", "killed"]
"""To its end; by the scheduler; with an error; by the sweep's time limit."""


@dataclass
class Story:
    """A trial as the journal tells it."""

    name: str
    """`0007`: the number of the trial."""
    point: Mapping[str, Any]
    """Its values, the latest ones where population based training changed them."""
    reports: list[Report] = field(default_factory=list)
    """In the order they came, each share once."""
    ending: Ending | None = None
    """None while it is to go on."""
    error: str = ""
    """Why it failed."""
    before: "Story | None" = None
    """What it had come to, where it is told anew; that stands again if it does not come to an end."""

    @property
    def share(self) -> float:
        """How far it has come."""
        return self.reports[-1].share if self.reports else 0.0

    @property
    def scores(self) -> Mapping[str, float]:
        """Where it stands: each score as last reported."""
        return {name: value for report in self.reports for name, value in report.scores.items()}


class Journal:
    """The journal of one sweep; held by one driver at a time."""

    def __init__(self, folder: Path) -> None:
        """Reads what is there, and locks it.

        Raises:
            OutputError: another process runs this sweep now, or the folder cannot be written.
        """
        path = writable_folder(folder) / FILE
        self.stories: dict[str, Story] = {}
        self.events: list[tuple[str, Report]] = []
        """Every report of every trial, in the order they came."""
        self._file = path.open("a+b")
        lock(self._file, f"The sweep in {folder}")
        self._file.seek(0)
        whole = 0
        for line in self._file.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                self._take(json.loads(line))
                whole += len(line)
        self._file.truncate(whole)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def began(self, name: str, point: Mapping[str, Any], *, anew: bool = False) -> None:
        """A trial was given its point, or another one, or is to go on, or to be told `anew`."""
        self._write({"trial": name, "point": dict(point)} | ({"anew": True} if anew else {}))

    def reported(self, name: str, report: Report) -> None:
        """A trial said where it stands."""
        self._write({"trial": name, "report": packed(report)})

    def ended(self, name: str, ending: Ending, error: str = "") -> None:
        """A trial will not go on."""
        self._write({"trial": name, "ending": ending, "error": error})

    def _write(self, event: dict[str, Any]) -> None:
        self._take(event)
        self._file.write(json.dumps(event).encode() + b"\n")
        self._file.flush()

    def _take(self, event: dict[str, Any]) -> None:
        name = event["trial"]
        match event:
            case {"point": point, "anew": True}:
                self.stories[name] = Story(name, point, before=self.stories[name])
            case {"point": point}:
                story = self.stories.setdefault(name, Story(name, point))
                story.point, story.ending = point, None
            case {"report": said}:
                report = unpacked(said)
                self.stories[name].reports.append(report)
                self.events.append((name, report))
            case _:
                story = self.stories[name]
                if story.before is not None and event["ending"] != "finished":
                    self.stories[name] = story.before
                else:
                    story.ending, story.error = event["ending"], event["error"]
