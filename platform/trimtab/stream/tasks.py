"""One model's extraction: understood and planned before any weight is read, then done or reused.

`trimtab extract` is `extract_all`; a diagnosis does the same for each of its models and goes on.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.core.files import writable_folder
from trimtab.core.progress import Report
from trimtab.models.card import ModelCard, ModelConfig
from trimtab.models.configs import config_of
from trimtab.models.cost import Work
from trimtab.models.engine import Request, check_request
from trimtab.models.hardware import Machine
from trimtab.models.loading import describe
from trimtab.models.plan import ModelPlan, place
from trimtab.models.tokens import adds_bos
from trimtab.models.weights import weigh
from trimtab.store.reader import open_store
from trimtab.store.writer import Writer
from trimtab.stream import nursery, twins
from trimtab.stream.blocks import Plan
from trimtab.stream.config import ExtractJob
from trimtab.stream.extract import Stats, extract_to_store, identity_of, request_for, source_for
from trimtab.stream.machine import known_machine
from trimtab.stream.scenarios import Scenarios, plan_for, read
from trimtab.stream.session import ray_session

log = logging.getLogger(__name__)


class Task(NamedTuple):
    """One model, understood and planned, with no weight read yet."""

    spec: ModelConfig
    """Where it is and how it is held."""
    card: ModelCard
    """What it is."""
    plan: Plan
    """What it reads."""
    request: Request
    """What is read of it."""
    identity: dict[str, Any]
    """All that decides its activations."""
    placement: ModelPlan
    """How it runs on this machine; decides no number."""


class Extracted(NamedTuple):
    """A finished activation store."""

    task: Task
    """Whose it is."""
    folder: Path
    """Where it is."""
    stats: Stats
    """What it cost now."""


def extract_all(specs: Sequence[ModelConfig], job: ExtractJob, report: Report) -> list[Extracted]:
    """The finished store of each model, extracted where it is not there yet.

    Raises:
        TrimtabError: something the user can mend.
    """
    job = job.model_copy(update={"out": writable_folder(job.out).resolve()})
    scenarios = read(job.data, job.out)
    with known_machine() as machine:
        found = resolved(tuple(specs), job, report)
        tasks = [task(spec, scenarios, job, machine) for spec in found]
        with ray_session():
            return [Extracted(todo, *fill_store(todo, scenarios, job, report)) for todo in tasks]


def resolved(
    models: tuple[ModelConfig, ...], job: ExtractJob, report: Report
) -> tuple[ModelConfig, ...]:
    """The models with those of the nursery trained and the twins made.

    Raises:
        ConfigError: a variant that the nursery does not have.
        ModelError: a twin of a model that is not in the registry.
    """
    models = twins.resolve(models, job.out, lambda _, i, n: report("make twins", i, n))
    return nursery.resolve(
        models, job.data, job.out, lambda name, i, n: report(f"train nursery {name}", i, n)
    )


def task(spec: ModelConfig, scenarios: Scenarios, job: ExtractJob, machine: Machine) -> Task:
    """Reads a model's configuration and tokenizer, and plans its work.

    Raises:
        ModelError: the model cannot be found or understood, or does not fit the machine.
        ConfigError: a layer it does not have.
        DataError: a prompt over the length limit.
    """
    card, tokenizer = describe(spec)
    card = twins.in_the_originals_place(card)
    request = request_for(card, job.extract, has_bos=adds_bos(tokenizer))
    check_request(request, card.num_layers)
    plan = plan_for(scenarios.table, tokenizer, job.data.prompt, job.extract)
    placement = placement_for(spec, request, plan, job, machine)
    log.info("%s: %s", card.label, placement.why)
    identity = identity_of(card, request, plan, job)
    return Task(spec, card, plan, request, identity, placement)


def placement_for(
    spec: ModelConfig, request: Request, plan: Plan, job: ExtractJob, machine: Machine
) -> ModelPlan:
    """How a model runs, and what Ray is asked for.

    Raises:
        ModelError: what was asked for does not fit the machine.
    """
    lengths = [len(prompt.tokens) for block in plan.blocks for prompt in block.prompts]
    work = Work(
        prompts=plan.num_prompts,
        tokens=plan.num_tokens,
        rows=plan.num_rows,
        layers=request.layers,
        pooled_bytes=4 if job.extract.dtype == "float32" else 2,
        token_budget=request.token_budget,
        longest=max(lengths),
    )
    return place(
        weigh(config_of(spec), spec.dtype),
        work,
        machine,
        precision=spec.precision,
        source=spec.source,
        num_gpus=0.0 if spec.device == "cpu" else spec.num_gpus,
        name=spec.label,
    )


def writer_of(todo: Task, job: ExtractJob) -> Writer:
    """Where a task's activations are written to."""
    return Writer(job.out / "activations", todo.identity, (job.extract.pooling,))


def fill_store(
    todo: Task, scenarios: Scenarios, job: ExtractJob, report: Report
) -> tuple[Path, Stats]:
    """The finished, verified store of a task, extracted where it is not there yet.

    Raises:
        StoreError: a shard is damaged.
        TrimtabError: what a worker met.
    """
    writer = writer_of(todo, job)
    blocks = len(todo.plan.blocks)
    if writer.finished:
        report(f"{todo.card.label}: activations reused", blocks, blocks)
        stats = Stats(0, 0, 0.0, [], {})
    else:
        _, stats = extract_to_store(
            todo.plan,
            writer,
            source_for(todo.spec, todo.request, job, todo.placement),
            job,
            {
                "model": todo.card._asdict(),
                "prompt": job.data.prompt,
                "scenarios": scenarios.manifest.identity,
            },
            lambda done: report(f"{todo.card.label}: extract", done, blocks),
        )
    open_store(writer.path).verify()
    return writer.path, stats
