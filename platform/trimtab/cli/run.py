"""`trimtab diagnose` and `extract`: a configuration, its driver, and what came out."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.noise import clean_streams

if TYPE_CHECKING:
    from trimtab.stream.config import DiagnoseConfig


class Precisions(StrEnum):
    """How weights are held."""

    published = "published"
    nf4 = "nf4"


class Sources(StrEnum):
    """Where blocks come from."""

    auto = "auto"
    resident = "resident"
    streamed = "streamed"


Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        help="Hugging Face id, folder, nursery:base|instruct|guard, or twin:ID for a random stand-in; NAME=ID calls it NAME. Repeat for more.",
    ),
]
Data = Annotated[
    str,
    typer.Option(help="Social-Chemistry-101 TSV, a folder of `trimtab prepare`, or `corpus`."),
]
Out = Annotated[Path, typer.Option(help="Folder that everything is written to and reused from.")]
Layers = Annotated[str, typer.Option(help="`all`, or numbers from 0: 0,8,16.")]
AllRows = Annotated[
    bool, typer.Option("--all-rows", help="Every row instead of the diagnosis subset.")
]
TokenBudget = Annotated[
    int | None,
    typer.Option(
        help="Most tokens in a batch.", show_default="16384 on a GPU, 1024 on a CPU", min=1
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads of a model.", show_default="every core; 1 beside a GPU", min=1),
]
NumGpus = Annotated[
    float | None,
    typer.Option(help="GPUs of each model; 0 is the CPU.", show_default="the plan's", min=0),
]
Precision = Annotated[
    Precisions,
    typer.Option(help="Weights as published, or held in 4 bits (not exact)."),
]
Source = Annotated[
    Sources,
    typer.Option(help="All weights in memory, or read block by block (same bits, any size)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

_ASKS = "How do these models hold virtue and vice apart?"


def diagnose(
    model: Models,
    data: Data = "corpus",
    out: Out = Path("runs"),
    layers: Layers = "all",
    all_rows: AllRows = False,
    min_cluster_size: Annotated[
        int, typer.Option(help="Fewest rows of a cluster; less for little data.", min=2)
    ] = 100,
    min_samples: Annotated[
        int, typer.Option(help="Neighbours that make a row dense; less for little data.", min=1)
    ] = 20,
    token_budget: TokenBudget = None,
    threads: Threads = None,
    num_gpus: NumGpus = None,
    precision: Precision = Precisions.published,
    source: Source = Sources.auto,
    store: Annotated[bool, typer.Option(help="Keep the activations on disk.")] = True,
    as_released: Annotated[
        bool, typer.Option("--as-released", help="The released scripts' choices, uncorrected.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measures how models hold virtue and vice apart, at every layer.

    Four measures of moral indifference (categorical, gradient, structural, dimensional), figures,
    and one MLflow run per model. What is finished is reused. For more settings than there are
    options, write a file like those in sweeps/ and run jobs/diagnose.py on it.
    """
    from trimtab.core.config import build
    from trimtab.stream.config import DiagnoseConfig

    held = {"precision": precision.value, "source": source.value, "num_gpus": num_gpus}
    tree = _job_tree(model, held, data, out, layers, all_rows, token_budget, threads) | {
        "job": DiagnoseConfig.JOB,
        "asks": _ASKS,
        "measures": {"min_cluster_size": min_cluster_size, "min_samples": min_samples},
        "store": store,
        "as_released": as_released,
    }
    run_diagnose(build(DiagnoseConfig, tree, where="trimtab diagnose"), as_json=as_json)


def extract(
    model: Models,
    out: Annotated[Path, typer.Option(help="Folder; the store is in its activations/.")],
    data: Data = "corpus",
    layers: Layers = "all",
    all_rows: AllRows = False,
    token_budget: TokenBudget = None,
    threads: Threads = None,
    num_gpus: NumGpus = None,
    precision: Precision = Precisions.published,
    source: Source = Sources.auto,
    as_json: AsJson = False,
) -> None:
    """Writes the pooled activations of models to disk, and measures nothing.

    A later `trimtab diagnose` with the same options and the same --out reads this store instead of
    running the model again.
    """
    from trimtab.cli import show
    from trimtab.core.config import build
    from trimtab.stream.config import DiagnoseConfig, ExtractJob
    from trimtab.stream.tasks import extract_all

    held = {"precision": precision.value, "source": source.value, "num_gpus": num_gpus}
    tree = _job_tree(model, held, data, out, layers, all_rows, token_budget, threads)
    specs = build(DiagnoseConfig, tree | {"job": "diagnose", "asks": "-"}, "trimtab extract").models
    del tree["models"]
    job = build(ExtractJob, tree, where="trimtab extract")
    with clean_streams(result_only=as_json), show.Stages() as stages:
        found = extract_all(specs, job, stages.report)
    show.extracted(found, as_json=as_json)


def run_diagnose(config: "DiagnoseConfig", *, as_json: bool = False) -> None:
    """Runs a diagnosis and prints its outcome. Shared with `jobs/diagnose.py`.

    Raises:
        TrimtabError: something the user can mend.
    """
    from trimtab.cli import show
    from trimtab.stream import diagnose as driver

    show.opening(config)
    with clean_streams(result_only=as_json), show.Stages() as stages:
        outcome = driver.diagnose(config, stages.report)
    show.outcome(outcome, as_json=as_json)


def _job_tree(
    models: list[str],
    held: dict[str, Any],
    data: str,
    out: Path,
    layers: str,
    all_rows: bool,
    token_budget: int | None,
    threads: int | None,
) -> dict[str, Any]:
    specs, extract_tree, workers = on_this_machine(models, held, token_budget, threads)
    wanted = layers if layers == "all" else layers.split(",")
    data_tree: dict[str, Any] = {"path": absolute(data)}
    return {
        "models": specs,
        "data": data_tree | ({"subset": None} if all_rows else {}),
        "extract": extract_tree | {"layers": wanted},
        "workers": workers,
        "out": out.absolute(),
    }


def on_this_machine(
    models: list[str], held: dict[str, Any], token_budget: int | None, threads: int | None
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Models, `extract` and `workers`, with what was not said filled in for this machine."""
    import torch

    gpu = torch.cuda.is_available() if held["num_gpus"] is None else held["num_gpus"] > 0
    specs = [_spec(model) | held for model in models]
    cores = 1 if gpu else os.cpu_count() or 1
    return (
        specs,
        {"token_budget": token_budget or (16_384 if gpu else 1_024)},
        {"threads": threads or cores},
    )


def _spec(model: str) -> dict[str, Any]:
    name, named, given = model.partition("=")
    return {"id": absolute(given), "name": name} if named else {"id": absolute(model)}


def absolute(path: str) -> str:
    """A path that means the same in every worker; an id or a word that is no path stays."""
    found = Path(path).expanduser()
    return str(found.resolve()) if found.exists() and path != "corpus" else path
