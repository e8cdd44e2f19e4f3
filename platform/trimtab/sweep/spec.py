"""What a sweep is told: the record behind every `sweeps/*.yaml` that says `job: sweep`.

`base` is a whole trial of the study; `space` says which of its values vary, by dotted path. A
sweep is named by the part of its record that decides its trials (`SweepConfig.identity`): how many
run at once, on what, for how long, and what is kept can be changed between two calls.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from trimtab.core.config import Config, JobConfig
from trimtab.sweep.axes import Axis


class Objective(Config):
    """What trials are compared by."""

    metric: str
    """A metric's name; over several layers, its mean."""
    mode: Literal["min", "max"]
    """Whether less or more is better."""


class NoScheduler(Config):
    """Every trial runs to its end."""

    kind: Literal["none"] = "none"
    """Which scheduler."""


class Asha(Config):
    """Stops trials early that are worse than others were at the same share of the way.

    Li et al. 2018, arXiv 1810.05934.
    """

    kind: Literal["asha"]
    """Which scheduler."""
    grace: PositiveFloat = Field(default=0.1, lt=1)
    """Share of a trial before which none is stopped: the first rung."""
    reduction: float = Field(default=3.0, gt=1)
    """At each rung one in so many goes on; the next rung is so many times further."""


class Pbt(Config):
    """Population based training: bad trials go on from a copy of good ones, with other settings.

    Jaderberg et al. 2017, arXiv 1711.09846.
    """

    kind: Literal["pbt"]
    """Which scheduler."""
    interval: PositiveFloat = Field(default=0.1, lt=1)
    """Share of a trial between two exchanges."""
    quantile: PositiveFloat = Field(default=0.25, le=0.5)
    """Share of the trials that copy, and are copied from."""


Scheduler = Annotated[NoScheduler | Asha | Pbt, Field(discriminator="kind")]


class Resources(Config):
    """What each trial gets."""

    num_cpus: PositiveFloat = 1.0
    """CPUs that Ray reserves for it, and its threads."""
    num_gpus: NonNegativeFloat = 0.0
    """GPUs, or a share of one; trials that share a GPU must fit its memory together."""


class Budget(Config):
    """How many trials, on what, and which of them to the end."""

    num_trials: PositiveInt | None = None
    """Trials in all; the default is every point of the grid, where that is all there is."""
    searcher: Literal["grid", "random", "optuna"] = "random"
    """`grid`: the points of the grid. `random`: other values are drawn, and grid points taken in
    turn. `optuna`: each point is chosen after what earlier ones gave (TPE)."""
    scheduler: Scheduler = Field(default_factory=NoScheduler)
    """Who is stopped early."""
    seed: int = 0
    """Seed of what the searcher and the scheduler draw; a trial's own is in `base`."""
    concurrency: PositiveInt | None = None
    """Most trials at once; the default is what the resources allow."""
    resources: Resources = Field(default_factory=Resources)
    """What each trial gets."""
    hours: PositiveFloat | None = None
    """Most hours; trials still running then are stopped, and the rest counts. With another limit the
    same sweep goes on."""
    retries: NonNegativeInt = 1
    """How often a trial that failed is taken up again, from its last saved state."""
    save_seconds: NonNegativeFloat = 60.0
    """Least seconds between two saved states of a trial."""

    @model_validator(mode="after")
    def _population_is_whole(self) -> "Budget":
        if self.scheduler.kind != "pbt":
            return self
        if self.searcher == "optuna":
            raise ValueError(
                "the scheduler `pbt` changes the points of running trials, which the searcher "
                "`optuna` could not learn from; choose `random` or `grid`"
            )
        if self.concurrency is not None:
            raise ValueError(
                "the scheduler `pbt` compares all trials as they go, in turns where there is no "
                "room for all of them at once; leave out `concurrency`"
            )
        return self


class SweepConfig(JobConfig):
    """Many trials of one study, compared."""

    JOB: ClassVar[str] = "sweep"

    asks: str
    """The question that this file answers, in one sentence."""
    study: str
    """`sae`, `align` or `steer`; or `module:attribute` of your own."""
    base: dict[str, Any]
    """A whole trial; its keys are the study's own."""
    space: dict[str, Axis] = Field(min_length=1)
    """Dotted path into `base` -> the values it may take."""
    objective: Objective
    """What trials are compared by."""
    budget: Budget = Field(default_factory=Budget)
    """How many trials, on what."""
    keep: NonNegativeInt = 1
    """Artifacts of so many best trials are kept, and logged to MLflow."""
    out: Path = Path("runs")
    """Where everything is written. On a cluster, a folder that all nodes share."""
    tracking_uri: str | None = None
    """MLflow store; the default is MLFLOW_TRACKING_URI, else `mlflow.db` in `out`."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the trials and what comes of them."""
        decisive = {"num_trials", "searcher", "scheduler", "seed"}
        return self.model_dump(
            mode="json",
            include={
                "study": True,
                "base": True,
                "space": True,
                "objective": True,
                "budget": decisive,
            },
        )
