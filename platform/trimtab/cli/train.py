"""`trimtab train`: sparse autoencoders of a model's layers, and what they are worth."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trimtab.cli.console import ERR, echo_json
from trimtab.cli.noise import clean_streams
from trimtab.cli.run import (
    AsJson,
    Data,
    Layers,
    NumGpus,
    Out,
    Precision,
    Precisions,
    Source,
    Sources,
    Threads,
    TokenBudget,
    absolute,
    on_this_machine,
)

if TYPE_CHECKING:
    from trimtab.stream.train import Trained
    from trimtab.stream.train_config import TrainJob


class Kinds(StrEnum):
    """The activation."""

    relu = "relu"
    topk = "topk"
    batchtopk = "batchtopk"
    jumprelu = "jumprelu"


class Presets(StrEnum):
    """Recipes by name."""

    li2026 = "li2026"


class Devices(StrEnum):
    """What is trained on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Exports(StrEnum):
    """Formats beside ours, which is SAELens' too."""

    sparsify = "sparsify"


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Hugging Face id, folder, nursery:base|instruct|guard, or twin:ID; NAME=ID calls it NAME.",
    ),
]
ExtractLayers = Annotated[
    str | None,
    typer.Option(
        help="Layers to store, where more than --layers: others are then trained without the model.",
        show_default="--layers",
    ),
]
Fractions = Annotated[
    str, typer.Option(help="Of the actions, in training and in validation; the rest is test.")
]
Preset = Annotated[
    Presets | None, typer.Option(help="A recipe; what else is said here comes on top of it.")
]
Kind = Annotated[Kinds | None, typer.Option(help="Activation.", show_default="topk, or --from's")]
Width = Annotated[
    int | None, typer.Option(help="Latents.", show_default="--from's; 65536 with --preset li2026")
]
ActiveLatents = Annotated[
    int | None,
    typer.Option(help="Active latents of a row, for the top-k kinds.", show_default="32"),
]
TargetL0 = Annotated[
    float | None, typer.Option(help="Active latents that lambda aims at, for relu and jumprelu.")
]
Penalty = Annotated[
    float | None, typer.Option(help="Lambda, or where it starts.", show_default="1e-3")
]
Epochs = Annotated[
    float | None, typer.Option(help="Passes over the training rows.", show_default="10")
]
LearningRate = Annotated[
    float | None,
    typer.Option("--learning-rate", "--lr", help="Of the optimiser.", show_default="3e-4"),
]
BatchSize = Annotated[int | None, typer.Option(help="Rows of a step.", show_default="4096")]
Draws = Annotated[int, typer.Option(help="Of the first weights and the rows' order.")]
Start = Annotated[
    Path | None,
    typer.Option(
        "--from", help="Go on from an autoencoder that trimtab, SAELens or sparsify wrote."
    ),
]
Export = Annotated[
    Exports | None, typer.Option(help="Write this format as well; ours is SAELens' too.")
]
Texts = Annotated[int, typer.Option(help="Held-out prompts for the cross-entropy; 0: none.", min=0)]
Device = Annotated[Devices, typer.Option(help="What is trained on.")]


def train(
    model: Model,
    data: Data = "corpus",
    out: Out = Path("runs"),
    layers: Layers = "all",
    extract_layers: ExtractLayers = None,
    fractions: Fractions = "0.8,0.1",
    preset: Preset = None,
    kind: Kind = None,
    width: Width = None,
    k: ActiveLatents = None,
    target_l0: TargetL0 = None,
    penalty: Penalty = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    seed: Draws = 0,
    start: Start = None,
    export: Export = None,
    texts: Texts = 512,
    device: Device = Devices.auto,
    token_budget: TokenBudget = None,
    threads: Threads = None,
    num_gpus: NumGpus = None,
    precision: Precision = Precisions.published,
    source: Source = Sources.auto,
    as_json: AsJson = False,
) -> None:
    """Trains sparse autoencoders on a model's layers, all of them in one loop.

    Reads the activations once (they are kept), trains on the rows of the training split, measures on
    held-out rows and texts, and logs one MLflow run. What is finished is reused; what was cut short
    goes on where it was. Each layer's folder is also SAELens' layout.
    """
    from trimtab.core.config import build
    from trimtab.stream.train_config import TrainJob

    held = {"precision": precision.value, "source": source.value, "num_gpus": num_gpus}
    (spec,), extract, workers = on_this_machine([model], held, token_budget, threads)
    coder = {"kind": kind and kind.value, "width": width, "k": k}
    recipe = {"target_l0": target_l0, "penalty": penalty, "epochs": epochs}
    recipe |= {"learning_rate": learning_rate, "batch_size": batch_size}
    tree = {
        "model": spec,
        "data": {"path": absolute(data), "fractions": fractions.split(",")},
        "extract": extract | {"layers": _layers(extract_layers or layers)},
        "workers": workers,
        "out": out.absolute(),
        "layers": _layers(layers),
        "train": _recipe(preset, start, _said(coder), _said(recipe)),
        "seed": seed,
        "evaluate": {"texts": texts},
        "device": device.value,
        "start": start and start.absolute(),
        "export": export and export.value,
    }
    run_train(build(TrainJob, tree, where="trimtab train"), as_json=as_json)


def run_train(job: "TrainJob", *, as_json: bool = False) -> None:
    """Runs a training and prints what it came to.

    Raises:
        TrimtabError: something the user can mend.
    """
    from trimtab.cli import show
    from trimtab.cli.train_tables import print_trained
    from trimtab.stream import train as driver
    from trimtab.stream.coders import said

    numbers = ["all"] if job.layers == "all" else map(str, job.layers)
    ERR.print(Text(f"Training {said(job.train.coder)}, layers: {', '.join(numbers)}", style="bold"))
    ERR.print(
        f"Model: {job.model.label}\nData: {job.data.path}\nOut: {show.near(job.out)}", markup=False
    )
    with clean_streams(result_only=as_json), show.Stages() as stages:
        found = driver.train(job, stages.report)
    if as_json:
        echo_json(_document(found))
    else:
        print_trained(found, job)


def _recipe(
    preset: Presets | None, start: Path | None, coder: dict[str, Any], recipe: dict[str, Any]
) -> dict[str, Any]:
    """What was asked for, over the preset, over what the folder to go on from says."""
    from trimtab.core.errors import ConfigError
    from trimtab.sae.config import TrainConfig

    if preset is not None:
        tree = TrainConfig.li2026().model_dump()
        return tree | recipe | {"coder": tree["coder"] | coder}
    if start is not None:
        from trimtab.stream.coders import coder_of

        coder = coder_of(start).model_dump() | coder
    if "width" not in coder:
        raise ConfigError(
            "`--width` must be given: how many latents an autoencoder has, for example 16 times the "
            "model's width."
        )
    return recipe | {"coder": coder}


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _layers(layers: str) -> str | list[str]:
    return layers if layers == "all" else layers.split(",")


def _document(found: "Trained") -> dict[str, object]:
    result = found.result
    return {
        "model": found.card.label,
        "folder": str(found.folder),
        "layers": [
            {
                "layer": layer,
                "folder": str(folder),
                "sparsify": str(found.exports[layer]) if layer in found.exports else None,
                "metrics": result.metrics[layer],
            }
            for layer, folder in found.coders.items()
        ],
        "rows": result.rows,
        "steps": result.steps,
        "epochs": result.epochs,
        "seconds": result.seconds,
        "reused": found.reused,
        "figures": [str(path) for path in found.figures],
        "mlflow_run": found.run_id,
        "tracking_uri": found.tracking_uri,
    }
