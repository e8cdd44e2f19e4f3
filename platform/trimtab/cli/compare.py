"""`trimtab compare`: runs of MLflow as one table on the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from trimtab.cli.console import OUT, echo_json
from trimtab.cli.run import AsJson
from trimtab.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trimtab.report.comparison import Seen
    from trimtab.track.mlflow import Found

_FEWEST_DIGITS = 6
"""Of a run's id, to mean it by its beginning."""
_WHOLE_NAME = 16
"""Characters of a run's name that stay on one line."""
_GAP = 2
"""Blanks between two columns."""
_AXES = ("layer", "alpha", "edit", "coder")


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Names or ids of runs; a sweep stands for its trials."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of runs; MLFLOW_TRACKING_URI wins when set.")
    ] = Path("runs"),
    metric: Annotated[
        list[str] | None, typer.Option(help="Show this metric too; may be repeated.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Highest of this metric first; else oldest first.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prints runs side by side, as they are in MLflow.

    Numbers that were logged by layer are those of the last layer; peaks and rates are of the run.
    """
    from trimtab.report.comparison import Seen

    found = [one for name in runs for one in _find(_stored(out), name)]
    unique = {one.run_id: one for one in found}.values()
    seen = [Seen(o.name, o.run_id, o.status, o.params, o.metrics) for o in unique]
    _check(seen, [*(metric or ()), *([sort] if sort else [])])
    if sort:
        seen.sort(key=lambda run: -run.metrics.get(sort, float("-inf")))
    if as_json:
        echo_json([run._asdict() for run in seen])
        return
    print_runs(seen, metric or [])


def _stored(out: Path) -> "list[Found]":
    """All runs of all experiments; a file that is not there is not made by looking for it."""
    import os

    from trimtab.track.mlflow import EXPERIMENTS, find_runs, sqlite_uri

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        if not (out / "mlflow.db").is_file():
            raise ConfigError(
                f"There are no runs in {out}: it has no mlflow.db. Name the folder of runs with "
                "--out, or the server in MLFLOW_TRACKING_URI."
            )
        uri = sqlite_uri(out)
    return [run for experiment in EXPERIMENTS for run in find_runs(uri, experiment, {})]


def _find(stored: "Sequence[Found]", name: str) -> "list[Found]":
    """The runs that a name or an id means; instead of a sweep, its trials."""
    named = [run for run in stored if name in (run.name, run.run_id)]
    if not named and len(name) >= _FEWEST_DIGITS:
        named = [run for run in stored if run.run_id.startswith(name)]
    if not named:
        recent = ", ".join(dict.fromkeys(run.name for run in reversed(stored) if not run.parent))
        raise ConfigError(
            f"There is no run {name!r}. The newest first, these are there: {recent or 'none'}."
        )
    ids = {run.run_id for run in named}
    below = [run for run in stored if run.parent in ids]
    parents = {run.parent for run in below}
    return [run for run in named if run.run_id not in parents] + below


def _check(seen: "Sequence[Seen]", wanted: "Sequence[str]") -> None:
    known = {name for run in seen for name in run.metrics}
    for name in wanted:
        if name not in known:
            close = sorted(other for other in known if name.split("/")[-1] in other)[:5]
            raise ConfigError(
                f"None of these runs has the metric {name!r}. "
                + (f"Near it: {', '.join(close)}." if close else "See `--json` for what they have.")
            )


def print_runs(seen: "Sequence[Seen]", metric: "Sequence[str]") -> None:
    """Prints a row for each run: the headlines, then the metrics asked for.

    What does not fit the terminal stands in further tables below, so that no number is cut.
    """
    from trimtab.report.comparison import cell, columns, differing

    names = [r.name if r.status == "FINISHED" else f"{r.name} ({r.status.lower()})" for r in seen]
    of_run = {axis: [run.params.get(axis, "–") for run in seen] for axis in differing(seen, _AXES)}
    told = {c.title: [cell(run, c) for run in seen] for c in columns(seen, metric)}
    room = OUT.width - min(max(map(len, names), default=0), _WHOLE_NAME) - _GAP
    room -= sum(_width(axis, cells) for axis, cells in of_run.items())
    widths = {title: _width(title, cells) for title, cells in told.items()}
    for place, titles in enumerate(_that_fit(widths, room)):
        if place:
            OUT.print()
        OUT.print(_table(names, of_run | {title: told[title] for title in titles}))


def _width(title: str, cells: "Sequence[str]") -> int:
    return max(map(len, (title, *cells))) + _GAP


def _that_fit(widths: dict[str, int], room: int) -> list[list[str]]:
    """Columns in their order, in as many groups as it takes."""
    groups: list[list[str]] = [[]]
    left = room
    for title, width in widths.items():
        if width > left and groups[-1]:
            groups.append([])
            left = room
        groups[-1].append(title)
        left -= width
    return groups


def _table(names: "Sequence[str]", columns: "Mapping[str, Sequence[str]]") -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    longest = max(map(len, names), default=0)
    table.add_column("Run", overflow="fold", min_width=min(longest, _WHOLE_NAME))
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for number, name in enumerate(names):
        table.add_row(Text(name), *(Text(cells[number]) for cells in columns.values()))
    return table
