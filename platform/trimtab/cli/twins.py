"""`trimtab twins`: a random stand-in for each of the 23 models."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from trimtab.cli.console import OUT, echo_json
from trimtab.cli.run import AsJson

if TYPE_CHECKING:
    from trimtab.models.twins import Twin

_ALL = "all"
_SWEEP = "python jobs/diagnose.py sweeps/diagnose-23-twins.yaml"


def twins(
    out: Annotated[Path, typer.Option(help="Folder; each twin gets a folder of its own in it.")],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            "-m",
            help="Id that `trimtab models` lists. Repeat for more.",
            show_default=_ALL,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Makes twins: small random models that run the code of the 23, offline and anywhere.

    Each twin has its original's class, checkpoint layout, quantisation (gpt-oss in MXFP4, Llama 4
    with its vision part), special tokens and chat template, with every dimension shrunk to a few
    MB. Whatever works on the twins works on the code path of the originals; what is measured on them
    says nothing about the originals, because the weights are random.

    A twin's folder can be given to every option that takes a model; `twin:ID` does the same and
    makes it on first use. What is there already is reused, and the same bytes come out every time.
    """
    from trimtab.cli import show
    from trimtab.models.registry import REGISTRY
    from trimtab.stream import twins as driver

    asked = [] if models is None or _ALL in models else models
    with show.Stages() as stages:
        made = driver.make(
            out,
            asked or tuple(REGISTRY),
            lambda _, done, of: stages.report("make twins", done, of),
        )
    if as_json:
        echo_json([twin._asdict() | {"folder": str(twin.folder)} for twin in made])
        return
    _print(made, out)


def _print(made: Sequence["Twin"], out: Path) -> None:
    from trimtab.cli.show import near

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("Twin of", "Class", "Held in"):
        table.add_column(name, overflow="fold")
    for name in ("Layers", "Params", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for twin in made:
        table.add_row(
            Text(twin.folder.name),
            twin.kind,
            twin.precision,
            str(twin.num_layers),
            f"{twin.parameters / 1e6:.1f} M",
            f"{twin.num_bytes / 1e6:.1f}",
        )
    OUT.print(table)
    new = sum(not twin.reused for twin in made)
    size = f"{sum(twin.num_bytes for twin in made) / 1e6:.0f} MB"
    where = near(out.resolve())
    OUT.print(f"{len(made)} twins ({new} new), {size}, in {where}", soft_wrap=True)
    OUT.print("Random weights: what is measured on them is no finding.\n")
    OUT.print("Diagnose one of them, or all that the registry has:")
    folder = near(made[0].folder.resolve())
    for line in (f"trimtab diagnose --model {folder}", _SWEEP):
        OUT.print(Text(line, style="bold"), soft_wrap=True)
