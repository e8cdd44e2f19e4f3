"""Where a model runs, in what precision and from what source, decided before anything is spent.

Exact first. (1) In its published precision on one card, or on a share of one, if weights, one
batch's activations and the hidden states of a block of prompts fit with a margin of 10 %. (2) Else
streamed through one card, exact too: its weights pass once per block of prompts. (3) NF4 only where
the user asked for it: resident, on as few cards of one node as it fits. What a user says of source
or cards holds, and where it cannot be done the error says what is needed.

A pure function of what a model weighs, the work and the machine. DESIGN 5.5 and 6.
"""

import math
from typing import Literal, NamedTuple

from trimtab.core.errors import ModelError
from trimtab.models.cost import Source, Work, compute_seconds, pass_bytes, store_bytes
from trimtab.models.fits import Fit, Question, fit, ways
from trimtab.models.hardware import Machine
from trimtab.models.parts import RESIDENT_ONLY, Precision
from trimtab.models.reasons import too_large, why
from trimtab.models.weights import Weights


class ModelPlan(NamedTuple):
    """How one model is run, and what that costs."""

    source: Source
    """Where its blocks come from."""
    precision: Precision
    """What its weights are held in."""
    why: str
    """One sentence, with the numbers and what was not done."""
    gpus_per_replica: float
    """A share of a card, or whole cards; 0 on a CPU."""
    replicas: int
    """Copies that make the run shortest: each reads the checkpoint for itself."""
    replicas_fit: int
    """Copies that the machine holds side by side."""
    token_budget: int
    """Most tokens of one batch: as asked, or halved until it fits."""
    block_prompts: int
    """Prompts whose hidden states are held at once."""
    passes: int
    """How often one replica reads its weights."""
    tokens: int
    """Tokens of all prompts."""
    needed_bytes: int
    """On each card of a replica, or in host memory; with the margin."""
    weight_bytes: int
    """Held there of the weights."""
    activation_bytes: int
    """One batch inside a block, with a block's dequantised experts."""
    hidden_state_bytes: int
    """Hidden states of a block of prompts."""
    read_bytes: int
    """Read of checkpoints, by all replicas together."""
    store_bytes: int
    """Written to the activation store."""
    seconds: float
    """Expected: reading and then computing, or the longer of the two where they overlap."""
    seconds_compute: float
    """Bound by cards or cores."""
    seconds_read: float
    """Bound by storage and the way to the card."""


def place(
    weights: Weights,
    work: Work,
    machine: Machine,
    *,
    precision: Literal["published", "nf4"] = "published",
    source: Literal["auto", "resident", "streamed"] = "auto",
    num_gpus: float | None = None,
    name: str = "This model",
) -> ModelPlan:
    """Decides how a model is run.

    Args:
        weights: the model.
        work: what it reads.
        machine: what there is.
        precision: as published, or NF4 (a model published in MXFP4 stays what it is).
        source: `auto` decides.
        num_gpus: cards of one replica, a share or a whole number; 0 is the CPU, None decides.
        name: what an error calls the model.

    Raises:
        ModelError: what was asked for does not fit, or cannot be had together.
    """
    held = weights.held_as(precision)
    question = Question(weights, work, machine, held, source, num_gpus)
    _check(question, name)
    found = next(filter(None, (fit(question, way) for way in ways(question))), None)
    if found is None:
        raise ModelError(too_large(question, name))
    return _costed(question, found)


def _check(question: Question, name: str) -> None:
    if question.precision in RESIDENT_ONLY and question.source == "streamed":
        raise ModelError(
            f"Weights in {question.precision} are held and do not stream, but {name} was asked for in "
            "both ways. Leave out `source: streamed`, or stream the published checkpoint, exact and of any "
            "size, without `precision: nf4`."
        )
    cards, machine = question.num_gpus, question.machine
    if cards is None or cards == 0:
        return
    if cards < 0 or (cards > 1 and cards % 1):
        raise ModelError(
            f"`num_gpus` must be a share of a GPU or a whole number of them, but it is {cards:g} "
            f"for {name}."
        )
    if machine.gpu is None or cards > machine.gpus_per_node:
        raise ModelError(
            f"A replica must fit into one node, which has {machine.gpus_per_node} GPUs, but {name} "
            f"was asked for on {cards:g}. Lower `num_gpus`, or leave it out: the plan then decides."
        )


def _costed(question: Question, found: Fit) -> ModelPlan:
    weights, work, machine = question.weights, question.work, question.machine
    fit_side_by_side = _side_by_side(machine, found.way.cards)
    blocks = math.ceil(work.prompts / found.block_prompts)
    times = {
        replicas: _times(question, found, replicas)
        for replicas in range(1, max(1, min(fit_side_by_side, blocks)) + 1)
    }
    replicas = min(times, key=lambda n: times[n].total)
    passes = math.ceil(blocks / replicas) if found.way.source == "streamed" else 1
    return ModelPlan(
        source=found.way.source,
        precision=question.precision,
        why=why(question, found),
        gpus_per_replica=found.way.cards,
        replicas=replicas,
        replicas_fit=fit_side_by_side,
        token_budget=found.way.token_budget,
        block_prompts=found.block_prompts,
        passes=passes,
        tokens=work.tokens,
        needed_bytes=found.need.total,
        weight_bytes=found.need.weights,
        activation_bytes=found.need.activations + found.need.dequantised,
        hidden_state_bytes=found.hidden_bytes,
        read_bytes=replicas * passes * pass_bytes(weights, work, found.way.source),
        store_bytes=store_bytes(weights, work),
        seconds=times[replicas].total,
        seconds_compute=times[replicas].compute,
        seconds_read=times[replicas].read,
    )


class _Times(NamedTuple):
    compute: float
    read: float
    total: float


def _times(question: Question, found: Fit, replicas: int) -> _Times:
    """With so many copies, each of which reads for itself through its node's storage."""
    work, machine = question.work, question.machine
    streamed = found.way.source == "streamed"
    blocks = math.ceil(work.prompts / found.block_prompts)
    batches = max(blocks, math.ceil(work.tokens / found.way.token_budget))
    on_cpu = machine.gpu is None or found.way.cards == 0
    compute = compute_seconds(
        question.weights,
        work,
        question.precision,
        machine._replace(gpu=None) if on_cpu else machine,
        batches=batches,
    ) / min(replicas, max(1, 1 if on_cpu else machine.num_gpus))
    passes = math.ceil(blocks / replicas) if streamed else 1
    per_node = math.ceil(replicas / machine.num_nodes)
    link = math.inf if on_cpu or machine.gpu is None else machine.gpu.link
    rate = min(machine.read_rate / per_node, link)
    read = passes * pass_bytes(question.weights, work, found.way.source) / rate
    return _Times(compute, read, max(compute, read) if streamed else compute + read)


def _side_by_side(machine: Machine, cards: float) -> int:
    if machine.gpu is None or cards == 0:
        return 1
    if cards < 1:
        return machine.num_gpus * int(1 / cards)
    full, rest = divmod(machine.num_gpus, machine.gpus_per_node)
    return int(full * (machine.gpus_per_node // cards) + rest // cards)
