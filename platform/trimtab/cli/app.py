"""The `trimtab` command.

A command imports its driver when it runs, not before: torch, ray and mlflow take seconds to import,
and `--help` needs none of them.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trimtab import __version__
from trimtab.cli import (
    compare,
    data,
    demo,
    evaluate,
    look,
    moral,
    plan,
    run,
    sweep,
    train,
    twins,
    weights,
)
from trimtab.cli.noise import quiet
from trimtab.cli.seam import guarded


class Guarded(TyperGroup):
    """Puts every command behind the one seam for errors."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 (typer's own signature)
        """Runs the command that was asked for."""
        quiet()
        with guarded():
            return super().invoke(ctx)


app = typer.Typer(
    name="trimtab",
    cls=Guarded,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def trimtab(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = None,
) -> None:
    """Finds moral concepts in language models.

    Begin with `trimtab demo`; `trimtab doctor` says what this machine can do.
    """


for command in (
    demo.demo,
    data.prepare,
    run.extract,
    run.diagnose,
    train.train,
    moral.locate,
    moral.align,
    evaluate.evaluate,
    sweep.sweep,
    compare.compare,
    look.models,
    plan.plan,
    weights.quantize,
    look.doctor,
    twins.twins,
):
    app.command()(command)


def main() -> None:
    """Entry point of the `trimtab` command."""
    app()
