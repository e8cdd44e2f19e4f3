"""What a sweep can be made of: a study, and what it promises the sweep.

A study turns a point of a space into a trial. It knows nothing of Ray Tune, of MLflow, of trials
beside its own, or of being interrupted; the sweep knows nothing of coders or prompts. In the order
of a sweep:

    kind.model_validate(base + point)   a trial's own record; every point is built before any starts
    survey(base, out)                   what is known without a model's weights, Ray or a GPU
    check(trial, facts)                 refuses a point that cannot run
    estimate(trial, facts)              memory, seconds and disk for the plan
    prepare(base, out, report)          in the driver, once: extract the store that all trials read
    start(trial, prepared, device)      in the trial's process: a `Running`
        load(folder)                    where the trial had begun before
        reports()                       goes on until it is finished; the sweep may stop listening
        save(folder)                    between two reports, whenever the sweep asks
        finish(folder)                  the last report, and the artifacts

After `load`, `reports` gives what it would have given without the interruption, bit for bit.
A trial that is stopped early is dropped between two reports and never finishes.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch

from trimtab.core.config import Config
from trimtab.core.errors import ConfigError
from trimtab.core.progress import Report as Progress
from trimtab.core.tracker import Metric

STUDIES: Final = {
    "sae": "trimtab.sweep.studies.sae:STUDY",
    "align": "trimtab.sweep.studies.align:STUDY",
    "steer": "trimtab.sweep.studies.steer:STUDY",
}
"""Where each study is; a sweep may also name one of your own as `module:attribute`."""

UNANSWERED: Final = "judge/unanswered"
"""A score that says how much a trial was not told. Where a finished trial has it above 0, it is told
anew when the same call comes again; the study sees to it that only the rest is asked."""

OWN: Final = ""
"""The name of a trial's own run, where it has only that one."""


class Report(NamedTuple):
    """Where a trial stands."""

    share: float
    """How much of the trial is done, 0 < share <= 1, rising: epochs, prompts, whatever it counts.
    Trials of different length are compared at equal shares."""
    metrics: Mapping[str, Sequence[Metric]]
    """What is logged, by the name of the MLflow run that it belongs to (see `Study.runs`)."""
    scores: Mapping[str, float]
    """What the trial as a whole stands at: what Tune compares and the table of trials shows."""


def report(share: float, metrics: Sequence[Metric]) -> Report:
    """A report of a trial with one run: each score is a metric's mean over its steps."""
    by_name: dict[str, list[float]] = {}
    for metric in metrics:
        by_name.setdefault(metric.name, []).append(metric.value)
    scores = {name: sum(values) / len(values) for name, values in by_name.items()}
    return Report(share, {OWN: metrics}, scores)


class Estimate(NamedTuple):
    """What a trial will cost, of the right order."""

    memory: int
    """Bytes, of the GPU where it has one."""
    seconds: float
    """To its end, alone on its resources."""
    disk: int
    """Bytes of its artifacts."""
    rate: str
    """The rate that the seconds rest on, in words: `20 GFLOP/s on a core`."""


class Prepared(NamedTuple):
    """What the driver made ready for all trials. Small: it is sent to each of them."""

    identity: str
    """Content hash of the data that trials read; with the configuration, it names the sweep."""
    payload: Any
    """Paths and labels, for `Study.start`; plain picklable values."""
    tags: Mapping[str, str]
    """Tags of the parent run and of every trial's (model, data_hash, ...)."""
    dataset: tuple[str, str, str, Mapping[str, int]]
    """Name, digest, source and counts, as `Tracker.dataset` takes them."""


@runtime_checkable
class Running(Protocol):
    """A trial in its process."""

    def load(self, folder: Path) -> None:
        """Takes up the state that `save` left."""
        ...

    def save(self, folder: Path) -> None:
        """Writes all that `load` needs into an empty folder."""
        ...

    def reports(self) -> Iterator[Report]:
        """Works on, and reports `Study.curve` at intervals, all of them each time; ends when done.

        Raises:
            TrimtabError: the trial cannot go on; it is recorded as failed.
        """
        ...

    def finish(self, folder: Path) -> Report:
        """The final evaluation (share 1), with the trial's artifacts written into an empty folder.

        The scores may repeat those of `curve` and must hold all of `final`.
        """
        ...


class Closing(NamedTuple):
    """The last word of a sweep: its best trial in a table of its own, and what follows from it."""

    title: str
    """What the table shows."""
    rows: list[dict[str, str]]
    """By column, in order; the same columns in every row."""
    says: str
    """What follows, and what it rests on."""


AnyTrial = TypeVar("AnyTrial", bound=Config)


@runtime_checkable
class Study(Protocol[AnyTrial]):
    """A kind of experiment that can be swept. Stateless: the driver and each trial have their own."""

    experiment: str
    """MLflow experiment: `trimtab/sae`."""
    kind: type[AnyTrial]
    """The record that a sweep's `base` is, and each trial."""
    curve: frozenset[str]
    """Metrics in the scores of every report."""
    final: frozenset[str]
    """Metrics in the scores of the last report."""
    live: frozenset[str]
    """Paths of `kind` that may change while a trial runs; only these can population based
    training perturb."""

    def survey(self, base: AnyTrial, out: Path) -> Any:  # noqa: ANN401 (the study's own record)
        """Facts that checking and estimating need. Quick: no weights are read, Ray is not started.

        Raises:
            TrimtabError: a model or data set that is not there.
        """
        ...

    def check(self, trial: AnyTrial, facts: Any) -> None:  # noqa: ANN401
        """Refuses what its record allows but its model or data do not.

        Raises:
            ConfigError: for example a layer that the model does not have.
        """
        ...

    def estimate(self, trial: AnyTrial, facts: Any) -> Estimate:  # noqa: ANN401
        """What a trial will cost."""
        ...

    def prepare(self, base: AnyTrial, out: Path, report: Progress) -> Prepared:
        """What all trials share, made where it is not there yet. May start Ray and stop it again.

        Raises:
            TrimtabError: something the user can mend.
        """
        ...

    def runs(self, trial: AnyTrial) -> Mapping[str, Mapping[str, object]]:
        """The MLflow runs of a trial: name -> its parameters beside the point's.

        `{OWN: {}}` for one run a trial; a steering study has one per strength.
        """
        ...

    def start(self, trial: AnyTrial, prepared: Prepared, device: torch.device) -> Running:
        """A trial at its beginning.

        Raises:
            TrimtabError: something the user can mend.
        """
        ...

    def figures(self, trials: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
        """The study's own figures for the parent run, beside those that every sweep has.

        Args:
            trials: the table of trials, best first (see `trimtab.sweep.results`).
            folder: where they go.
        """
        ...

    def closing(self, trials: Sequence[Mapping[str, Any]]) -> Closing | None:
        """What is to be read last on the terminal; None where the table of trials says it all.

        Args:
            trials: as for `figures`.
        """
        ...


def study_named(name: str) -> Study[Any]:
    """The study of a name in `STUDIES`, or of `module:attribute`.

    Raises:
        ConfigError: there is none.
    """
    module, colon, attribute = STUDIES.get(name, name).partition(":")
    try:
        found = getattr(import_module(module), attribute) if colon else None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"The study {name!r} cannot be imported: {error}.") from error
    if not isinstance(found, Study):
        raise ConfigError(
            f"`study` must be one of {', '.join(STUDIES)}, or `module:attribute` of your own, but "
            f"got {name!r}."
        )
    return found
