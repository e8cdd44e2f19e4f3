"""`trimtab models` and `trimtab doctor`: what is known, and what is here."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from trimtab.cli.console import OUT, echo_json
from trimtab.cli.run import AsJson
from trimtab.cli.seam import USER_ERROR

_PRECISIONS = {"bfloat16": "bf16", "mxfp4": "MXFP4"}
_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def models(as_json: AsJson = False) -> None:
    """Lists the 23 models of the study.

    Any other model works by its Hugging Face id or folder.
    """
    from trimtab.models.registry import REGISTRY

    if as_json:
        echo_json([known.to_json() for known in REGISTRY.values()])
        return
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("Model", no_wrap=True)
    table.add_column("Group")
    table.add_column("Params", justify="right")
    table.add_column("Blocks", justify="right")
    table.add_column("In")
    table.add_column("Gated")
    for known in REGISTRY.values():
        table.add_row(
            Text(known.id),
            known.group,
            f"{known.billions:.1f} B",
            f"{known.num_layers} x {known.d_model:4}",
            _PRECISIONS[known.precision],
            "yes" if known.gated else "",
        )
    OUT.print(table)
    OUT.print(
        "In: the precision it is published in; --json has every dimension. A gated model needs its\n"
        "licence accepted on the hub, and `hf auth login`. `trimtab plan` says what each one takes."
    )


def doctor(
    out: Annotated[Path, typer.Option(help="Folder of runs to look into.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Says what is installed and what this machine can do, with a remedy for what is missing.

    Exit code 0 if all that a run needs is there, 2 if not; a note is something that only some runs
    need.
    """
    from trimtab.cli.checks import all_checks

    found = all_checks(out)
    if as_json:
        echo_json([check._asdict() for check in found])
    else:
        table = Table("", "What", "Found", box=box.SIMPLE_HEAD, pad_edge=False)
        for check in found:
            detail = Text(check.detail)
            if check.remedy:
                detail.append(f"\n-> {check.remedy}", style="italic")
            table.add_row(Text(check.state, style=_STYLES[check.state]), check.name, detail)
        OUT.print(table)
    if any(check.state == "problem" for check in found):
        raise typer.Exit(USER_ERROR)
