"""What a sweep is about to do, said before it does it.

Every point that can be known is built and checked here, against the machine too: a sweep that
cannot run fails before a model is read, a store extracted or a GPU asked for.
"""

import math
from pathlib import Path
from typing import NamedTuple

import ray

from trimtab.core.errors import ConfigError
from trimtab.models.hardware import Machine
from trimtab.stream.machine import known_machine
from trimtab.sweep.schedulers import expected_share, rungs
from trimtab.sweep.space import (
    check_objective,
    checked_trials,
    known_points,
    num_grid_points,
    trial_record,
)
from trimtab.sweep.spec import Asha, Budget, SweepConfig
from trimtab.sweep.study import study_named


class SweepPlan(NamedTuple):
    """A sweep, checked and weighed."""

    num_trials: int
    """In all."""
    num_grid_points: int
    """Combinations of what is listed."""
    num_checked: int
    """Points that were built as trials."""
    concurrency: int
    """At once."""
    rungs: list[float]
    """Shares of a trial at which it may be stopped; empty without ASHA."""
    memory: int
    """Bytes of the largest trial."""
    memory_at_once: int
    """Bytes of as many as run at once."""
    disk: int
    """Bytes of the artifacts that are kept."""
    seconds: float
    """If every trial runs to its end."""
    seconds_expected: float
    """If the scheduler stops as many as it can."""
    rate: str
    """What the seconds rest on."""


def plan_sweep(config: SweepConfig, out: Path) -> SweepPlan:
    """Checks a sweep and says what it will cost.

    Args:
        out: the folder of runs, absolute.

    Raises:
        TrimtabError: a point, the objective, or the resources cannot be.
    """
    study = study_named(config.study)
    check_objective(config, study)
    points = known_points(config)
    base = trial_record(study.kind, config.base, {})
    facts = study.survey(base, out)
    trials = checked_trials(config, study, facts)
    estimates = [study.estimate(trial, facts) for trial in trials]
    with known_machine() as machine:
        possible = _at_once(config.budget, machine, _cores(machine))
    num_trials = config.budget.num_trials or len(points or ())
    concurrency = max(1, min(num_trials, possible, config.budget.concurrency or possible))
    largest = max(estimate.memory for estimate in estimates)
    mean = sum(estimate.seconds for estimate in estimates) / len(estimates)
    num_gpus = config.budget.resources.num_gpus
    neighbours = _shares(num_gpus) if 0 < num_gpus < 1 else 1.0  # estimates are for a whole card
    total = mean * neighbours * math.ceil(num_trials / concurrency)
    scheduler = config.budget.scheduler
    return SweepPlan(
        num_trials=num_trials,
        num_grid_points=num_grid_points(config.space),
        num_checked=len(trials),
        concurrency=concurrency,
        rungs=rungs(scheduler) if isinstance(scheduler, Asha) else [],
        memory=largest,
        memory_at_once=largest * concurrency,
        disk=max(estimate.disk for estimate in estimates) * min(config.keep, num_trials),
        seconds=total,
        seconds_expected=total * expected_share(scheduler),
        rate=estimates[0].rate,
    )


def _cores(machine: Machine) -> float:
    """Of the whole cluster, where one is up; 0 where that is unknown."""
    return ray.cluster_resources().get("CPU", 0.0) if ray.is_initialized() else machine.cores or 0.0


def _at_once(budget: Budget, machine: Machine, cores: float) -> int:
    """Trials that there is room for at once.

    Args:
        machine: its nodes and GPUs.
        cores: of all nodes; 0 where that is unknown.

    Raises:
        ConfigError: not for one.
    """
    wanted = budget.resources
    if wanted.num_gpus > machine.gpus_per_node:
        raise ConfigError(
            f"`budget.resources.num_gpus` must be at most what one node has, but is "
            f"{wanted.num_gpus:g}, and there are {machine.gpus_per_node} GPUs. Ask for fewer (0 runs "
            "on the CPU), or say which machines are meant: TRIMTAB_GPU=h100-80gb:8."
        )
    if machine.cores and wanted.num_cpus > machine.cores:
        raise ConfigError(
            f"`budget.resources.num_cpus` must be at most what one node has, but is "
            f"{wanted.num_cpus:g}, and there are {machine.cores} cores. Ask for fewer."
        )
    rooms = [cores / wanted.num_cpus] if cores else []
    if wanted.num_gpus:
        rooms.append(_shares(wanted.num_gpus) * machine.num_gpus)
    return math.floor(min(rooms, default=1))


def _shares(num_gpus: float) -> float:
    """Trials to a card; a share of one is never split over two."""
    return float(math.floor(1 / num_gpus + 1e-9)) if num_gpus < 1 else 1 / num_gpus
