"""The driver of a sweep: a configuration in, compared trials out.

    sweeps/STUDY-HASH/          named by what decides the trials, and by the data they read
        journal.jsonl           what happened so far (see `trimtab.sweep.journal`)
        trials/0007/            a trial's states and artifacts (see `trimtab.sweep.trial`)
        trials.parquet          the table of trials, best first
        figures/                parallel coordinates, importance, the study's own

The same call again goes on where the last one stopped; when every trial has ended it starts
neither Ray nor a trial, and gives the same result.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple

from trimtab.core.files import writable_folder, write_json
from trimtab.core.hashing import content_hash
from trimtab.core.names import NAMES, PAID
from trimtab.core.progress import Report as Progress
from trimtab.core.seeds import Seed
from trimtab.core.tracker import Metric
from trimtab.report.sweep import draw_sweep
from trimtab.stream.session import ray_session
from trimtab.sweep.board import Board
from trimtab.sweep.journal import Journal, Story
from trimtab.sweep.plan import SweepPlan
from trimtab.sweep.results import POINT, TRIAL, Row, finished, importance, table, write_table
from trimtab.sweep.schedulers import scheduler_of
from trimtab.sweep.searchers import ListSearcher, OptunaSearcher, Searcher
from trimtab.sweep.space import known_points, trial_record
from trimtab.sweep.spec import Pbt, SweepConfig
from trimtab.sweep.study import UNANSWERED, Closing, Prepared, Report, Study, study_named
from trimtab.sweep.trial import ARTIFACTS, OUTCOME, STATE, Work, trial_folder
from trimtab.sweep.tuner import Given, run_trials
from trimtab.track.mlflow import prepare_store, sqlite_uri

SWEEP_VERSION: Final = 2
"""Raised whenever the same configuration begins to give other trials."""
SUMMARY: Final = "summary.json"
_MAY_PASS: Final = ("JudgeError", "OutputError")
"""Errors of what lies outside, an endpoint or a disk: trials that they ended go on when the same
call comes again."""

_log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What a sweep leaves behind."""

    rows: Sequence[Row]
    """The table of trials, best first."""
    best: list[Path]
    """Artifacts of the best trials, best first."""
    importance: Mapping[str, float]
    """How much each path mattered, most first."""
    figures: list[Path]
    """PNG files."""
    closing: Closing | None
    """The study's last word."""
    folder: Path
    """The sweep's."""
    run_id: str
    """The parent run."""
    tracking_uri: str
    """The MLflow store."""
    reused: bool
    """Every trial had ended before this call."""


def sweep(config: SweepConfig, plan: SweepPlan, report: Progress = lambda *_: None) -> Outcome:
    """Runs a sweep to its end.

    Args:
        config: what to do.
        plan: what `plan_sweep` made of it.
        report: told about progress.

    Raises:
        TrimtabError: something the user can mend. A trial that fails is no such thing.
    """
    out = writable_folder(config.out).resolve()
    study = study_named(config.study)
    uri = prepare_store(config.tracking_uri or sqlite_uri(out), (study.experiment,))
    base = trial_record(study.kind, config.base, {})
    prepared = study.prepare(base, out, report)
    digest = content_hash([SWEEP_VERSION, config.identity, prepared.identity])
    folder = out / "sweeps" / f"{config.study.replace(':', '.')}-{digest}"
    with Journal(folder) as journal:
        _reopen(journal, folder, config)
        reused = _is_over(journal, folder, plan)
        board = Board(config, study, prepared, uri, digest)
        with nullcontext() if reused and board.is_published else board:
            driver = _Driver(config, plan, journal, board, folder, report)
            if not reused:
                _run(config, study, prepared, plan, driver)
            return _conclude(driver, study, uri, reused=reused)


class _Driver:
    """Gives trials out, hears of them, and keeps journal and MLflow up to date."""

    def __init__(
        self,
        config: SweepConfig,
        plan: SweepPlan,
        journal: Journal,
        board: Board,
        folder: Path,
        report: Progress,
    ) -> None:
        self.config = config
        self.journal = journal
        self.board = board
        self.folder = folder
        self.deadline = math.inf
        self._plan = plan
        self._report = report
        self._again_each_share = isinstance(config.budget.scheduler, Pbt)
        self._searcher = self._searcher_now()
        self._waiting = [s.name for s in journal.stories.values() if s.ending is None]
        self._count()

    def next(self) -> Given | None:
        """See `Listener`: trials that are to go on first, then new ones."""
        if self._waiting:
            story = self.journal.stories[self._waiting.pop(0)]
            self.board.began(story)
            return Given(story.name, story.point)
        name = f"{len(self.journal.stories):04d}"
        point = self._searcher.ask(name)
        if point is None:
            return None
        self.journal.began(name, point)
        self.board.began(self.journal.stories[name])
        return Given(name, point)

    def reported(self, name: str, point: Mapping[str, Any], report: Report) -> None:
        """See `Listener`. What a trial that was taken up again says twice is heard once."""
        story = self.journal.stories[name]
        if dict(story.point) != dict(point):
            self.journal.began(name, point)
        if story.before is not None:
            report = _with_paid(report, story.before)
        if not self._again_each_share and self._heard(name, report):
            return
        self.board.reported(name, report)
        self.journal.reported(name, report)

    def ended(self, name: str, *, last: bool) -> None:
        """See `Listener`."""
        early = "killed" if time.monotonic() >= self.deadline else "stopped"
        self.journal.ended(name, "finished" if last else early)
        self._settle(name)

    def failed(self, name: str, error: str) -> None:
        """See `Listener`. A trial that was told anew stands as it did before."""
        if self.journal.stories[name].before is not None:
            _log.warning("trial %s stands as it did before: %s", name, error)
        self.journal.ended(name, "failed", error)
        self._settle(name)

    def cut(self) -> None:
        """Ends what the time limit stopped or kept from going on; Tune says nothing of it."""
        for story in self.journal.stories.values():
            if story.ending is None:
                self.board.began(story)
                self.ended(story.name, last=False)

    def best(self) -> list[Row]:
        """Finished trials, best first, as many as are kept."""
        rows = table(list(self.journal.stories.values()), self.config.objective)
        return finished(rows)[: self.config.keep]

    def clear(self) -> None:
        """Drops the folders of trials that have ended and are not among the best."""
        kept = {row[TRIAL] for row in self.best()}
        for name, story in self.journal.stories.items():
            if story.ending and name not in kept:
                shutil.rmtree(trial_folder(self.folder, name), ignore_errors=True)

    def _heard(self, name: str, report: Report) -> bool:
        last = self.journal.stories[name].reports
        if not last or report.share > last[-1].share:
            return False
        # The last report of a trial has the share of the one before it, and other scores.
        return report.share < last[-1].share or set(report.scores) <= set(last[-1].scores)

    def _settle(self, name: str) -> None:
        story = self.journal.stories[name]
        self._searcher.tell(story)
        self.board.ended(story)
        self.clear()
        self._count()

    def _count(self) -> None:
        done = sum(story.ending is not None for story in self.journal.stories.values())
        self._report(f"{self.config.study}: trials", done, self._plan.num_trials)

    def _searcher_now(self) -> Searcher:
        """The searcher after all that happened before this call."""
        config = self.config
        points = known_points(config)
        if points is not None:
            return ListSearcher(points)
        seed = Seed(config.budget.seed).child("optuna").value
        searcher = OptunaSearcher(config.space, config.objective, self._plan.num_trials, seed)
        for story in self.journal.stories.values():
            (searcher.tell if story.ending else searcher.again)(story)
        return searcher


def _run(
    config: SweepConfig,
    study: Study[Any],
    prepared: Prepared,
    plan: SweepPlan,
    driver: _Driver,
) -> None:
    budget = config.budget
    in_turns = isinstance(budget.scheduler, Pbt)
    work = Work(
        study=config.study,
        base=config.base,
        prepared=prepared,
        objective=config.objective.metric,
        folder=driver.folder,
        save_seconds=0.0 if in_turns else budget.save_seconds,
        num_threads=max(1, int(budget.resources.num_cpus)),
        num_gpus=budget.resources.num_gpus,
        checkpoints=in_turns,
    )
    scheduler = scheduler_of(
        budget.scheduler, config.objective, config.space, study.live, driver.journal.events
    )
    seconds = budget.hours * 3600 if budget.hours else None
    with ray_session():
        if seconds is not None:
            driver.deadline = time.monotonic() + seconds
        begun = plan.num_trials if in_turns else plan.concurrency
        run_trials(work, budget, scheduler, begun, driver, seconds)
    driver.cut()
    driver.clear()  # what a stopped trial still wrote before its process heard of it
    write_json(driver.folder / SUMMARY, {"hours": budget.hours})


def _reopen(journal: Journal, folder: Path, config: SweepConfig) -> None:
    """Trials that another time limit stopped are to go on, and those that may do better now.

    One that finished with cases unanswered is told anew; it stands as it does if that fails. One
    that the scheduler stopped stays so: what it was compared with then is not there again.
    """
    path = folder / SUMMARY
    other = path.is_file() and json.loads(path.read_text("utf-8"))["hours"] != config.budget.hours
    if other:
        path.unlink()
    for story in list(journal.stories.values()):
        killed = other and story.ending == "killed"
        failed = story.ending == "failed" and story.error.partition(":")[0] in _MAY_PASS
        if killed or failed:
            journal.began(story.name, story.point)
        elif story.ending == "finished" and story.scores.get(UNANSWERED, 0.0) > 0:
            for file in (OUTCOME, STATE):
                (trial_folder(folder, story.name) / file).unlink(missing_ok=True)
            journal.began(story.name, story.point, anew=True)


def _with_paid(report: Report, before: Story) -> Report:
    """What an endpoint was asked and paid for a trial that is told anew, the first time included."""
    paid = {
        (part, metric.name): metric.value
        for earlier in before.reports
        for part, told in earlier.metrics.items()
        for metric in told
        if metric.name in PAID
    }
    metrics = {
        part: [m._replace(value=m.value + paid.get((part, m.name), 0.0)) for m in told]
        for part, told in report.metrics.items()
    }
    return report._replace(metrics=metrics)


def _is_over(journal: Journal, folder: Path, plan: SweepPlan) -> bool:
    """Whether there is no trial left to run."""
    all_ended = all(story.ending for story in journal.stories.values())
    return all_ended and (len(journal.stories) >= plan.num_trials or (folder / SUMMARY).is_file())


def _conclude(driver: _Driver, study: Study[Any], uri: str, *, reused: bool) -> Outcome:
    """The table, the figures, and what MLflow says of the whole."""
    config, folder, board = driver.config, driver.folder, driver.board
    stories = list(driver.journal.stories.values())
    rows = table(stories, config.objective)
    mattered = importance(stories, config.space, config.objective, Seed(config.budget.seed))
    figures = writable_folder(folder / "figures")
    drawn = [
        *draw_sweep(rows, POINT, config.objective.metric, mattered, figures),
        *study.figures(rows, figures),
    ]
    write_table(rows, folder / "trials.parquet")
    best = [trial_folder(folder, row[TRIAL]) / ARTIFACTS for row in driver.best()]
    if not (reused and board.is_published):
        _publish(driver, rows, [folder / "trials.parquet", *drawn])
    return Outcome(
        rows=rows,
        best=best,
        importance=mattered,
        figures=drawn,
        closing=study.closing(rows),
        folder=folder,
        run_id=board.parent.run_id,
        tracking_uri=uri,
        reused=reused,
    )


def _publish(driver: _Driver, rows: Sequence[Row], files: list[Path]) -> None:
    """Tells MLflow about the whole sweep."""
    board, stories = driver.board, driver.journal.stories
    for story in stories.values():
        if not board.told_before(story):
            board.began(story)
            board.ended(story)
    endings = [story.ending for story in stories.values()]
    metrics = [
        Metric(f"sweep/{ending}", float(endings.count(ending)), 0)
        for ending in ("finished", "stopped", "failed", "killed")
    ]
    ended = finished(rows)
    tags: dict[str, str] = {}
    if ended:
        best = stories[ended[0][TRIAL]]
        metrics += [Metric(name, v, 0) for name, v in best.scores.items() if name in NAMES]
        tags = {"best_trial": best.name, "best_run": board.run_id(best.name)}
    for row in driver.best():
        board.artifacts(row[TRIAL], trial_folder(driver.folder, row[TRIAL]) / ARTIFACTS)
    board.summary(metrics, tags, files)
