"""`trimtab locate` and `trimtab align`: an autoencoder's moral latents, found and trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from trimtab.cli.console import ERR, OUT, echo_json
from trimtab.cli.noise import clean_streams
from trimtab.cli.run import (
    AsJson,
    Data,
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
from trimtab.cli.train import Devices, Fractions

if TYPE_CHECKING:
    from trimtab.report.tables import Cell
    from trimtab.stream.moral_config import AlignJob, LocateJob
    from trimtab.stream.moral_run import MoralResult

Coder = Annotated[
    Path,
    typer.Option(help="The autoencoder's own folder: ours, SAELens' or sparsify's."),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="The model it reads: Hugging Face id, folder, nursery:base|instruct|guard, or twin:ID.",
    ),
]
Layer = Annotated[
    int | None,
    typer.Option(help="The layer it reads.", show_default="what its folder says", min=0),
]
Split = Annotated[
    str,
    typer.Option(help="position, as published, or action: no action on two sides."),
]
MinRows = Annotated[
    int, typer.Option(help="Fewest rows for prototypicality; the demo's corpus takes 15.", min=3)
]
Strong = Annotated[float, typer.Option(help="|r| above which a correlation counts.")]
Draws = Annotated[int, typer.Option(help="Seed of whatever is drawn.", min=0)]
Device = Annotated[Devices, typer.Option(help="What the autoencoder runs on.")]

_CHANCE = """\
On {rows} validation rows. Chance: the same with the labels of whole prompts
shuffled, mean and the middle 95 %; p: chance of as many or more. Beyond
chance: latents that follow a dimension at a false-discovery rate of {rate:.0%}."""
_JUDGED = """\
On {rows} test rows, which neither chose nor trained a latent; {repeats} of them
repeat a training action. After: the same latents as before; anew: those that
the aligned autoencoder's own correlations choose. Prototypicality: up to 1;
pair cosine: lower tells virtue and vice apart."""
_DASH = "–"


def locate(
    sae: Coder,
    model: Model,
    data: Data = "corpus",
    out: Out = Path("runs"),
    layer: Layer = None,
    fractions: Fractions = "0.8,0.1",
    split: Split = "position",
    strong: Strong = 0.1,
    weak: Annotated[float, typer.Option(help="Largest |r| of a weak latent.")] = 0.05,
    min_rows: MinRows = 50,
    permutations: Annotated[
        int, typer.Option(help="Shuffles that say what chance gives; 0: none.", min=0)
    ] = 100,
    seed: Draws = 0,
    device: Device = Devices.auto,
    token_budget: TokenBudget = None,
    threads: Threads = None,
    num_gpus: NumGpus = None,
    precision: Precision = Precisions.published,
    source: Source = Sources.auto,
    as_json: AsJson = False,
) -> None:
    """Finds the moral latents of a sparse autoencoder, and whether chance explains them.

    Correlates every latent with the ten moral dimensions on validation rows, says which are
    monosemantic, and writes what activates the best ones. What is finished is reused.
    """
    from trimtab.core.config import build
    from trimtab.stream.moral_config import LocateJob

    held = {"precision": precision.value, "source": source.value, "num_gpus": num_gpus}
    tree = _tree(model, held, data, out, token_budget, threads)
    tree["data"] |= {"fractions": fractions.split(","), "split": split}
    tree |= {"sae": sae.absolute(), "layer": layer, "seed": seed, "device": device.value}
    thresholds = {"strong": strong, "weak": weak, "min_rows": min_rows}
    tree["latents"] = thresholds | {"permutations": permutations}
    run_locate(build(LocateJob, tree, where="trimtab locate"), as_json=as_json)


def align(
    sae: Coder,
    model: Model,
    data: Data = "corpus",
    out: Out = Path("runs"),
    layer: Layer = None,
    fractions: Fractions = "0.8,0.1",
    split: Split = "position",
    strong: Strong = 0.1,
    min_rows: MinRows = 50,
    epochs: Annotated[int, typer.Option(help="Most passes over the training rows.", min=1)] = 50,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", "--lr", help="Of the optimiser.")
    ] = 1e-4,
    batch: Annotated[int, typer.Option(help="Rows of a step.", min=1)] = 512,
    unit_scale: Annotated[
        bool,
        typer.Option("--unit-scale", help="Margins in the layer's own unit; off as published."),
    ] = False,
    as_released: Annotated[
        bool, typer.Option("--as-released", help="The released code's choices, uncorrected.")
    ] = False,
    seed: Draws = 0,
    device: Device = Devices.auto,
    token_budget: TokenBudget = None,
    threads: Threads = None,
    num_gpus: NumGpus = None,
    precision: Precision = Precisions.published,
    source: Source = Sources.auto,
    as_json: AsJson = False,
) -> None:
    """Trains the moral latents of a sparse autoencoder, and nothing else of it.

    Validation rows choose the latents, training rows align them, test rows say what changed. Every
    other weight is bitwise what it was. What is finished is reused; what was cut short goes on.
    For every weight and margin of the loss, sweep: `jobs/sweep.py sweeps/align-demo.yaml`.
    """
    from trimtab.core.config import build
    from trimtab.stream.moral_config import AlignJob

    held = {"precision": precision.value, "source": source.value, "num_gpus": num_gpus}
    tree = _tree(model, held, data, out, token_budget, threads)
    tree["data"] |= {"fractions": fractions.split(","), "split": split}
    tree |= {"sae": sae.absolute(), "layer": layer, "seed": seed, "device": device.value}
    tree["align"] = {
        "latents": {"strong": strong, "weak": min(strong, 0.05), "min_rows": min_rows},
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch": batch,
        "unit_scale": unit_scale,
        "as_released": as_released,
    }
    run_align(build(AlignJob, tree, where="trimtab align"), as_json=as_json)


def run_locate(job: "LocateJob", *, as_json: bool = False) -> None:
    """Locates and prints what was found.

    Raises:
        TrimtabError: something the user can mend.
    """
    from trimtab.cli import show
    from trimtab.stream import locate as driver

    with clean_streams(result_only=as_json), show.Stages() as stages:
        found = driver.locate(job, stages.report)
    if as_json:
        echo_json(_document(found))
        return
    metrics = found.result["metrics"]
    OUT.print(Text(found.result["outcome"], style="bold"))
    if "latents/chance/monosemantic" in metrics:
        OUT.print(_chance_table(metrics))
        words = {"rows": f"{metrics['latents/rows']:,.0f}", "rate": job.latents.false_discovery}
        OUT.print(Text(_CHANCE.format(**words), style="dim"))
    OUT.print(_dimension_table(metrics))
    _files(found)


def run_align(job: "AlignJob", *, as_json: bool = False) -> None:
    """Aligns and prints before and after.

    Raises:
        TrimtabError: something the user can mend.
    """
    from trimtab.cli import show
    from trimtab.report.latents import comparison_table
    from trimtab.stream import align as driver

    with clean_streams(result_only=as_json), show.Stages() as stages:
        found = driver.align(job, stages.report)
    if as_json:
        echo_json(_document(found) | {"coder": str(found.coder)})
        return
    result = found.result
    OUT.print(Text(result["outcome"], style="bold"))
    trained = f"{result['metrics']['align/latents/trained']:,.0f} of {result['width']:,} latents"
    OUT.print(f"{trained} trained; epoch {result['best_epoch']} of {result['epochs']} kept.")
    OUT.print(_comparison(comparison_table(result["metrics"])))
    words = {"rows": f"{result['rows']['test']:,}", "repeats": f"{result['repeats']['test']:,}"}
    OUT.print(Text(_JUDGED.format(**words), style="dim"))
    OUT.print(Text(f"\nThe aligned autoencoder: {show.near(found.coder)}"), soft_wrap=True)
    _files(found)


def _tree(
    model: str,
    held: dict[str, Any],
    data: str,
    out: Path,
    token_budget: int | None,
    threads: int | None,
) -> dict[str, Any]:
    (spec,), extract, workers = on_this_machine([model], held, token_budget, threads)
    return {
        "model": spec,
        "data": {"path": absolute(data)},
        "extract": extract,
        "workers": workers,
        "out": out.absolute(),
    }


def _chance_table(metrics: dict[str, float]) -> Table:
    table = _table(("Share of latents", "Found", "Chance", "95 % of shuffles", "p"))
    names = {"monosemantic": "monosemantic", "above": "any |r| above"}
    for share, title in names.items():
        mean, low, high, p = (
            metrics[f"latents/{part}/{share}"] for part in ("chance", "low", "high", "p")
        )
        found = f"{metrics[f'latents/{share}']:.4f}"
        table.add_row(title, found, f"{mean:.4f}", f"{low:.4f} to {high:.4f}", f"{p:.3f}")
    return table


def _dimension_table(metrics: dict[str, float]) -> Table:
    from trimtab.core.poles import POLES

    table = _table(("Dimension", "Beyond chance", "Prototypicality"))
    for pole in POLES:
        count = metrics[f"latents/significant/{pole}"]
        proto = metrics.get(f"latents/prototypicality/{pole}")
        table.add_row(pole, f"{count:.0f}", _cell(proto))
    return table


def _comparison(rows: "list[dict[str, Cell]]") -> Table:
    table = _table(("", "Before", "After", "Change", "Anew"))
    for row in rows:
        values = (row[column] for column in ("before", "after", "change", "reidentified"))
        table.add_row(str(row["score"]), *map(_cell, values))
    return table


def _table(columns: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def _cell(value: "Cell") -> str:
    return f"{value:z.4f}" if isinstance(value, float) else _DASH


def _document(found: "MoralResult") -> dict[str, object]:
    return found.result | {
        "model": found.card.label,
        "folder": str(found.folder),
        "figures": [str(path) for path in found.figures],
        "reused": found.reused,
        "mlflow_run": found.run_id,
        "tracking_uri": found.tracking_uri,
    }


def _files(found: "MoralResult") -> None:
    from trimtab.cli import show

    if found.reused:
        ERR.print("Finished before, and reused.")
    for path in (found.folder, *found.figures):
        OUT.print(Text(f"  {show.near(path)}"), soft_wrap=True)
    OUT.print(Text(f"MLflow run in trimtab/sae: {found.run_id}"), soft_wrap=True)
