"""`trimtab plan`: what models would take on a machine, before anything is spent."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trimtab.cli.console import ERR, OUT, echo_json
from trimtab.cli.plan_tables import run_table, weights_table
from trimtab.cli.run import AllRows, AsJson, Precision, Precisions, TokenBudget
from trimtab.cli.seam import USER_ERROR

if TYPE_CHECKING:
    from trimtab.models.hardware import Machine
    from trimtab.stream.planning import Planned, Texts

_ALL = "all"
_GB = 1e9
_NOTE = (
    "B: 1e9 parameters. Batch: activations of one batch; State: hidden states of a block of prompts "
    "(both, and more, from 100 columns on; all of it with --json). GPUs and Need: of one copy, with 10 % to spare; x: copies side by side. Read: checkpoints, at "
    "{read:g} GB/s a node. Compute: at {rate}. A resident model reads, then computes; a streamed one "
    "does both at once. Resident or streamed gives the same bits; NF4 is not exact."
)
_GPU_RATE = "{share:.0%} of the card's stated rate, which is assumed and not measured"
_CPU_RATE = "a rate measured on one core of another machine, times the cores"


def plan(
    more: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Models, like --models.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(help="`all` 23, or Hugging Face ids and folders.", show_default="all"),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="KIND or KIND:N, or `cpu`.", show_default="h100-80gb, a node of 8"),
    ] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="The Ray cluster that RAY_ADDRESS names.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="Social-Chemistry-101 TSV, a folder of `trimtab prepare`, or `corpus`.",
            show_default="16,315 prompts of 12 tokens",
        ),
    ] = None,
    all_rows: AllRows = False,
    precision: Precision = Precisions.published,
    token_budget: TokenBudget = None,
    read_rate: Annotated[
        float, typer.Option(help="GB a second that storage gives a node.", min=0.001)
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Says what each model would take: GPUs, memory, time and disk.

    Reads configurations, never weights: the 23 from what the registry knows (no network), others
    from their folder or the hub. For each model it picks where weights come from (resident in
    memory, or streamed block by block, both exact) and in which precision, and says why. Kinds:
    h100-80gb, h200-141gb, b200-180gb, a100-80gb, a100-40gb, l40s-48gb, rtx-4090-24gb, cpu.

    Exit code 2 if a model fits in no way.
    """
    from trimtab.models.card import ModelConfig
    from trimtab.models.registry import REGISTRY
    from trimtab.stream.planning import PUBLISHED, plan_models

    if gpu is not None and cluster:
        raise typer.BadParameter("Give either --gpu KIND or --cluster.")
    asked = [*(models or []), *(more or [])] or [_ALL]
    ids = list(dict.fromkeys(i for a in asked for i in (REGISTRY if a == _ALL else [a])))
    machine = _cluster(read_rate * _GB) if cluster else _named(gpu, read_rate * _GB)
    specs = [ModelConfig(id=i, precision=precision.value) for i in ids]
    texts = PUBLISHED if data is None else _texts(data, all_rows=all_rows)
    budget = token_budget or (16_384 if machine.gpu else 1_024)
    found = plan_models(specs, machine, texts, budget)
    if as_json:
        echo_json([document(one, machine) for one in found])
    else:
        _print(found, machine, texts)
    if any(one.plan is None for one in found):
        raise typer.Exit(USER_ERROR)


def document(one: "Planned", machine: "Machine") -> dict[str, Any]:
    """All that is known of one model's run; what cannot be is null."""
    from typing import get_args

    from trimtab.models.hardware import BANDWIDTH_EFFICIENCY, COMPUTE_EFFICIENCY
    from trimtab.models.parts import Precision as Held
    from trimtab.models.plan import ModelPlan

    parts, plan = one.weights.parts, one.plan
    return {
        "model": one.spec.id,
        "architecture": one.weights.architecture,
        "published": one.weights.published,
        "parameters": parts.total,
        "parameters_linear": parts.linear,
        "parameters_fused_experts": parts.experts,
        "parameters_embedding": parts.embedding,
        "parameters_other": parts.other,
        "parameters_active": one.weights.active,
        "flops_per_token": one.weights.flops_per_token,
        "bytes": {held: parts.bytes_in(held) for held in get_args(Held)},
        "bytes_largest_block": one.weights.largest_block.bytes_in("bf16"),
        "bytes_largest_fused": 2 * one.weights.largest_fused,
        "machine": machine.name,
        "prompts": one.work.prompts,
        "rows": one.work.rows,
        "tokens_from": one.tokens_from,
        **(plan._asdict() if plan else dict.fromkeys(ModelPlan._fields)),
        "tokens": one.work.tokens,
        "error": one.error or None,
        "assumed": {
            "compute_efficiency": COMPUTE_EFFICIENCY,
            "bandwidth_efficiency": BANDWIDTH_EFFICIENCY,
            "read_bytes_per_second": machine.read_rate,
        },
    }


def _named(gpu: str | None, read_rate: float) -> "Machine":
    from trimtab.models.hardware import machine_of

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine_of(gpu or "h100-80gb", memory, read_rate, os.cpu_count() or 1)


def _cluster(read_rate: float) -> "Machine":
    from trimtab.cli.checks import ray_cluster
    from trimtab.core.errors import ConfigError
    from trimtab.stream.machine import ray_machine
    from trimtab.stream.session import ray_session

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise ConfigError(
            "--cluster needs RAY_ADDRESS to name a running Ray cluster, but it is not set. Say "
            "RAY_ADDRESS=auto on one of its nodes, or --gpu KIND:N instead."
        )
    answer = ray_cluster()  # in seconds; Ray itself takes minutes to give up
    if answer.state == "problem":
        raise ConfigError(f"Ray cluster {answer.detail}. Remedy: {answer.remedy}.")
    try:
        with ray_session():
            return ray_machine(read_rate)
    except (ConnectionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"The Ray cluster RAY_ADDRESS={address} cannot be joined: {str(error).splitlines()[0]} "
            "Correct the address (HOST:6379, or auto on a node), or say --gpu KIND:N."
        ) from error


def _texts(data: str, *, all_rows: bool) -> "Texts":
    from trimtab.core.config import build
    from trimtab.stream.config import DataConfig
    from trimtab.stream.planning import texts_of

    tree: dict[str, Any] = {"path": data} | ({"subset": None} if all_rows else {})
    return texts_of(build(DataConfig, tree, where="trimtab plan"))


def _print(found: Sequence["Planned"], machine: "Machine", texts: "Texts") -> None:
    from trimtab.models.hardware import COMPUTE_EFFICIENCY

    tokens = sorted({one.work.tokens for one in found})
    count = f"{tokens[0]:,}" if len(tokens) == 1 else f"{tokens[0]:,} to {tokens[-1]:,}"
    title = f"{machine.name}, one model after another: {texts.prompts:,} prompts, {count} tokens"
    OUT.print(Text(title, style="bold"))
    OUT.print(weights_table(found))
    OUT.print()
    OUT.print(run_table(found))
    rate = _GPU_RATE.format(share=COMPUTE_EFFICIENCY) if machine.gpu else _CPU_RATE
    OUT.print(Text(_NOTE.format(read=machine.read_rate / _GB, rate=rate), style="dim"))
    notes: dict[str, list[str]] = {}
    for one in found:
        if one.plan is None:
            ERR.print(Text.assemble(("error: ", "bold red"), one.error), soft_wrap=True)
        elif one.plan.source == "streamed" or one.plan.gpus_per_replica > 1:
            notes.setdefault(one.plan.why, []).append(one.spec.label)
    for why, labels in notes.items():
        OUT.print(Text.assemble((f"\n{', '.join(labels)}: ", "bold"), why))
