"""Ray Tune, as a sweep uses it: the one module that starts it.

Tune places trials on the cluster, runs them, retries them and applies the scheduler. Where a trial
stands is in its own folder and what happened is in the journal, so a sweep that goes on is a new
`Tuner` for the trials that have not ended; Tune's own snapshots are not read.

A trial's process is kept for the next one (`reuse_actors`): eight short trials on two cores took
19 s instead of 37, most of it imports.
"""

import json
import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.error import TuneError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher as TuneSearcher

from trimtab.core.errors import TrimtabError
from trimtab.sweep.schedulers import OBJECTIVE, SHARE
from trimtab.sweep.spec import Budget
from trimtab.sweep.study import Report
from trimtab.sweep.trial import Work, work_on
from trimtab.sweep.wire import packed, unpacked

_ERROR_LENGTH: Final = 2000
_SCRATCH: Final = "tune-"
"""Prefix of the folder that Tune writes to; a driver that was killed leaves its own."""
_ENVIRONMENT: Final = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files of its own
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the objective may be known at the end only
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads its snapshots
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Tune reads these when it runs, and has no other way to be told."""


class Given(NamedTuple):
    """A trial to start."""

    name: str
    """`0007`."""
    point: Mapping[str, Any]
    """Its values."""


@runtime_checkable
class Listener(Protocol):
    """Who decides on trials and hears of them: the driver of the sweep."""

    def next(self) -> Given | None:
        """The next trial to start; None when there is no other."""
        ...

    def reported(self, name: str, point: Mapping[str, Any], report: Report) -> None:
        """A trial said where it stands."""
        ...

    def ended(self, name: str, *, last: bool) -> None:
        """A trial ended without an error; `last` if it had told its last report."""
        ...

    def failed(self, name: str, error: str) -> None:
        """A trial failed, once more than it may."""
        ...


def run_trials(
    work: Work,
    budget: Budget,
    scheduler: TrialScheduler,
    concurrency: int,
    listener: Listener,
    seconds: float | None,
) -> None:
    """Runs trials until the listener has no other.

    Args:
        work: what every trial is told.
        budget: resources and retries.
        scheduler: who is stopped early.
        concurrency: most trials begun and not ended.
        listener: gives trials, hears of them.
        seconds: after these, the trials still running are stopped; None never.
    """
    resources = {"cpu": budget.resources.num_cpus, "gpu": budget.resources.num_gpus}
    trainable = tune.with_resources(tune.with_parameters(tuned, work=work), resources)
    for killed in work.folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(killed, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=work.folder) as storage, _quiet(listener):
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Points(),
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=concurrency,
                time_budget_s=seconds,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.config["name"],
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=storage,
                verbose=0,
                callbacks=[_Forward()],
                failure_config=tune.FailureConfig(max_failures=budget.retries),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=4),
            ),
        )
        try:
            tuner.fit()
        except TuneError:
            if _RAISED:
                raise _RAISED.pop() from None
            raise


def tuned(config: dict[str, Any], work: Work) -> None:
    """A trial, as Tune calls it in a process of its own."""

    def tell(report: Report, last: bool, state: Path | None) -> None:
        result = {
            SHARE: report.share,
            "last": last,
            "report": json.dumps(packed(report)),
        }
        if (objective := report.scores.get(work.objective)) is not None:
            result[OBJECTIVE] = objective
        checkpoint = tune.Checkpoint.from_directory(state) if work.checkpoints and state else None
        tune.report(result, checkpoint=checkpoint)

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        work_on(work, config["name"], config["point"], None, tell)
        return
    with checkpoint.as_directory() as given:
        work_on(work, config["name"], config["point"], Path(given), tell)


_LISTENER: list[Listener] = []
"""Who hears of the trials of this process's Tuner. Tune pickles what it is given before it starts,
so neither searcher nor callback can hold an open journal themselves."""
_RAISED: list[TrimtabError] = []
"""What the listener raised: Tune passes on its traceback only."""


@contextmanager
def _listener() -> Iterator[Listener]:
    try:
        yield _LISTENER[-1]
    except TrimtabError as error:
        _RAISED.append(error)
        raise


class _Points(TuneSearcher):
    """Asks the listener for trials."""

    def set_search_properties(self, *_: Any, **__: Any) -> bool:  # noqa: ANN401 (Tune's own)
        return True

    def suggest(self, trial_id: str) -> Any:  # noqa: ANN401, ARG002
        with _listener() as listener:
            given = listener.next()
        if given is None:
            return TuneSearcher.FINISHED
        return {"name": given.name, "point": dict(given.point)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:  # noqa: ANN401
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Forward(tune.Callback):
    """Tells the listener."""

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,  # noqa: ANN401
        result: dict[str, Any],
        **_: Any,  # noqa: ANN401
    ) -> None:
        config = trial.config
        report = unpacked(json.loads(result["report"]))
        with _listener() as listener:
            listener.reported(config["name"], config["point"], report)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        last = (trial.last_result or {}).get("last", False)
        with _listener() as listener:
            listener.ended(trial.config["name"], last=last)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        with _listener() as listener:
            listener.failed(trial.config["name"], _why(trial))


def _why(trial: Any) -> str:  # noqa: ANN401
    """The error that a trial ended with, as its own message."""
    path = trial.pickled_error_file
    error = pickle.loads(Path(path).read_bytes()) if path and Path(path).is_file() else None
    if isinstance(error, RayTaskError):
        error = error.cause or error
    said = f"{type(error).__name__}: {error}" if error else "it ended without saying why"
    return said[:_ERROR_LENGTH]


@contextmanager
def _quiet(listener: Listener) -> Iterator[None]:
    """Tune says nothing of its own: what failed is recorded, and shown by us."""
    log = logging.getLogger("ray.tune")
    level = log.level
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    log.setLevel(logging.CRITICAL)
    os.environ.update(_ENVIRONMENT)
    _LISTENER.append(listener)
    try:
        yield
    finally:
        _LISTENER.pop()
        log.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
