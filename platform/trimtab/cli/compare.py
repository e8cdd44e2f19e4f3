"""`trimtab compare`: runs of MLflow as one table on the terminal."""

from difflib import get_close_matches
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

_DIGITS_SHOWN = 8
"""Of a run's id, by which it can be named."""
_NAMED = 5
"""Runs that a message names."""
_WHOLE_NAME = 16
"""Characters of a run's name that stay on one line."""
_GAP = 2
"""Blanks between two columns."""
_AXES = ("layer", "alpha", "edit", "coder")


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...",
            help="Names or ids of runs; a sweep stands for its trials. Without any: a list.",
        ),
    ] = None,
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
    """Prints runs side by side, as they are in MLflow; without a name, which runs there are.

    Numbers that were logged by layer are those of the last layer; peaks and rates are of the run.
    """
    from trimtab.report.comparison import Seen

    uri = _store(out)
    if not runs:
        _list(uri, as_json=as_json)
        return
    unique = {one.run_id: one for name in runs for one in _find(uri, name)}.values()
    seen = [Seen(o.name, o.run_id, o.status, o.params, o.metrics) for o in unique]
    _check(seen, [*(metric or ()), *([sort] if sort else [])])
    if sort:
        seen.sort(key=lambda run: -run.metrics.get(sort, float("-inf")))
    if as_json:
        echo_json([run._asdict() for run in seen])
        return
    print_runs(seen, metric or [])


def _store(out: Path) -> str:
    """Where the runs are; a file is not made by looking for it, nor a dead server waited for."""
    import os

    from trimtab.track.mlflow import probe, sqlite_uri

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and not (out / "mlflow.db").is_file():
        raise ConfigError(
            f"There are no runs in {out}: it has no mlflow.db. Name the folder of runs with "
            "--out, or the server in MLFLOW_TRACKING_URI."
        )
    uri = uri or sqlite_uri(out)
    probe(uri)
    return uri


def _list(uri: str, *, as_json: bool) -> None:
    """Prints the runs that stand for themselves, the newest first."""
    from trimtab.track.search import newest_runs

    found = [run for run in newest_runs(uri) if not run.parent]
    if as_json:
        echo_json([{"name": r.name, "run_id": r.run_id, "status": r.status} for r in found])
        return
    ids = {"id": [run.run_id[:_DIGITS_SHOWN] for run in found]}
    OUT.print(_table([_named(run.name, run.status) for run in found], ids))


def _find(uri: str, name: str) -> "list[Found]":
    """The runs that a name or an id means; instead of a sweep, its trials."""
    from trimtab.track.search import runs_below, runs_named

    named = runs_named(uri, name)
    if not named:
        raise ConfigError(_unknown(uri, name))
    below = {run.run_id: runs_below(uri, run.run_id) for run in named}
    return [run for run in named if not below[run.run_id]] + [
        r for rs in below.values() for r in rs
    ]


def _unknown(uri: str, name: str) -> str:
    """Names those near what was said; where there are none, the newest."""
    from trimtab.track.search import newest_runs

    names = list(dict.fromkeys(run.name for run in newest_runs(uri) if not run.parent))
    near = [other for other in names if name.lower() in other.lower()]
    near = near or get_close_matches(name, names)
    told = ", ".join((near or names)[:_NAMED])
    if not told:
        return f"There is no run {name!r}, nor any other."
    which = "Near it" if near else "The newest"
    return f"There is no run {name!r}. {which}: {told}. `trimtab compare` alone lists all of them."


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

    names = [_named(run.name, run.status) for run in seen]
    of_run = {axis: [run.params.get(axis, "–") for run in seen] for axis in differing(seen, _AXES)}
    told = {c.title: [cell(run, c) for run in seen] for c in columns(seen, metric)}
    room = OUT.width - min(max(map(len, names), default=0), _WHOLE_NAME) - _GAP
    room -= sum(_width(axis, cells) for axis, cells in of_run.items())
    widths = {title: _width(title, cells) for title, cells in told.items()}
    for place, titles in enumerate(_that_fit(widths, room)):
        if place:
            OUT.print()
        OUT.print(_table(names, of_run | {title: told[title] for title in titles}))


def _named(name: str, status: str) -> str:
    return name if status == "FINISHED" else f"{name} ({status.lower()})"


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
