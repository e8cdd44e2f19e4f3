"""The two streams: results on stdout, everything else on stderr."""

import json
from typing import Final

import typer
from rich.console import Console

OUT: Final = Console()
"""For results."""
ERR: Final = Console(stderr=True)
"""For everything else."""


def echo_json(value: object) -> None:
    """One JSON document on stdout; a NaN in it would be a bug of ours."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
