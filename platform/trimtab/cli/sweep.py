"""`trimtab sweep`: a plan first, then trials, then the table of the best.

Shared with `jobs/sweep.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.noise import clean_streams
from trimtab.cli.seam import USER_ERROR

if TYPE_CHECKING:
    from rich.table import Table

    from trimtab.sweep.plan import SweepPlan
    from trimtab.sweep.run import Outcome
    from trimtab.sweep.spec import SweepConfig
    from trimtab.sweep.study import Closing

File = Annotated[Path, typer.Argument(help="A YAML file that says `job: sweep`.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="out=runs budget.num_trials=24 base.layers=[5]"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check every trial, print the plan, stop.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

_SHOWN = 10
"""Trials that the table on the terminal has."""
_COLUMNS = ("sae/fvu", "sae/l0")
"""Scores shown beside the objective, where trials have them."""


def sweep(
    file: File, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Runs many trials of one study, compares them, and keeps the best.

    The plan comes first: trials, memory, time. Interrupted, the same line goes on: finished trials
    are not repeated, the others continue from their saved states.
    """
    from trimtab.core.config import load_job
    from trimtab.sweep.spec import SweepConfig

    config = load_job(file, SweepConfig, overrides or [])
    run_sweep(config, dry_run=dry_run, as_json=as_json)


def run_sweep(
    config: "SweepConfig", *, dry_run: bool = False, as_json: bool = False
) -> "Outcome | None":
    """Plans a sweep, runs it, and prints what came of it.

    Returns:
        What came of it; None of a dry run.

    Raises:
        TrimtabError: something the user can mend.
        typer.Exit: every trial failed.
    """
    from rich.text import Text

    from trimtab.cli import show
    from trimtab.cli.console import ERR, echo_json
    from trimtab.core.files import writable_folder
    from trimtab.sweep.plan import plan_sweep
    from trimtab.sweep.run import sweep as driver

    ERR.print(Text(config.asks, style="bold"))
    with clean_streams(result_only=as_json):
        plan = plan_sweep(config, writable_folder(config.out).resolve())
    if dry_run and as_json:
        echo_json(plan._asdict())
        return None
    ERR.print(plan_text(config, plan), markup=False, highlight=False)
    if dry_run:
        return None
    with clean_streams(result_only=as_json), show.Stages() as stages:
        found = driver(config, plan, stages.report)
    if as_json:
        echo_json(document(found))
    else:
        _show(config, found)
    if found.rows and all(row["ending"] == "failed" for row in found.rows):
        raise typer.Exit(USER_ERROR)
    return found


def plan_text(config: "SweepConfig", plan: "SweepPlan") -> str:
    """What is about to happen, in words."""
    budget = config.budget
    of_grid = f" ({plan.num_grid_points} grid points)" if plan.num_grid_points > 1 else ""
    lines = [
        f"Trials     {plan.num_trials} of `{config.study}`{of_grid}, {budget.searcher}; "
        f"{plan.num_checked} checked",
        f"At once    {plan.concurrency}, each with {budget.resources.num_cpus:g} CPU"
        + (f" and {budget.resources.num_gpus:g} GPU" if budget.resources.num_gpus else ""),
    ]
    if plan.rungs:
        goes_on = f"one in {budget.scheduler.reduction:g}"  # pyright: ignore[reportAttributeAccessIssue]
        at = ", ".join(f"{share:.0%}" for share in plan.rungs)
        lines.append(f"Rungs      at {at} of a trial; {goes_on} goes on")
    lines += [
        f"Memory     {_bytes(plan.memory)} a trial, {_bytes(plan.memory_at_once)} in all",
        f"Disk       {_bytes(plan.disk)} for the best {config.keep}",
        f"Time       about {_time(plan.seconds_expected)}"
        + (f", {_time(plan.seconds)} if none stops early" if plan.rungs else "")
        + f", start-up left out (at {plan.rate})",
    ]
    return "\n".join(lines)


def document(found: "Outcome") -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "trials": [dict(row) for row in found.rows],
        "best": [str(path) for path in found.best],
        "importance": dict(found.importance),
        "closing": found.closing._asdict() if found.closing else None,
        "figures": [str(path) for path in found.figures],
        "folder": str(found.folder),
        "mlflow_run": found.run_id,
        "tracking_uri": found.tracking_uri,
        "reused": found.reused,
    }


def _show(config: "SweepConfig", found: "Outcome") -> None:
    from rich.text import Text

    from trimtab.cli.console import OUT
    from trimtab.cli.show import near
    from trimtab.sweep.results import TRIAL
    from trimtab.track.mlflow import ui_command

    if found.reused:
        OUT.print("Every trial had ended before; nothing was run.")
    OUT.print(_table(config, found))
    if len(found.rows) > _SHOWN:
        OUT.print(f"The first {_SHOWN} of {len(found.rows)} trials; the rest is in trials.parquet.")
    OUT.print()
    for row in found.rows:
        if row["error"]:
            OUT.print(Text(f"Trial {row[TRIAL]} failed: {row['error']}", style="red"))
    if len(found.importance) > 1:
        said = ", ".join(f"{path} {share:.0%}" for path, share in found.importance.items())
        OUT.print(f"What {config.objective.metric} depends on: {said}", highlight=False)
    if found.closing is not None:
        OUT.print(Text(f"\n{found.closing.title}", style="bold"))
        OUT.print(_closing_table(found.closing))
        OUT.print()
        OUT.print(Text(f"{found.closing.says}\n"))
    for path in found.best:
        OUT.print(Text(f"Kept: {near(path)}"), soft_wrap=True)
    OUT.print(Text(f"Figures and table of all trials: {near(found.folder)}"), soft_wrap=True)
    OUT.print(Text(f"\nMLflow run {found.run_id}, its trials below it:"), soft_wrap=True)
    OUT.print(Text(ui_command(found.tracking_uri), style="bold"), soft_wrap=True)


def _table(config: "SweepConfig", found: "Outcome") -> "Table":
    """The best trials. Headers are folded where words end, values never."""
    from trimtab.sweep.results import POINT, TRIAL

    rows = found.rows[:_SHOWN]
    settings = [name for name in rows[0] if name.startswith(POINT)] if rows else []
    scores = [n for n in _COLUMNS if n != config.objective.metric and rows and n in rows[0]]
    table = _new_table()
    table.add_column("Trial", no_wrap=True)
    for name in settings:
        header = name.removeprefix(POINT).rpartition(".")[2].replace("_", "\n")
        table.add_column(header, justify="right", no_wrap=True)
    for name in (config.objective.metric, *scores):
        table.add_column(name.replace("/", "\n"), justify="right", no_wrap=True)
    table.add_column("Ended", no_wrap=True)
    for row in rows:
        cells = [_cell(row[name]) for name in (*settings, "objective", *scores)]
        table.add_row(row[TRIAL], *cells, _ending(row["ending"], row["share"]))
    return table


def _closing_table(closing: "Closing") -> "Table":
    table = _new_table()
    for i, name in enumerate(closing.rows[0]):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in closing.rows:
        table.add_row(*row.values())
    return table


def _new_table() -> "Table":
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, header_style="bold")


def _ending(ending: str, share: float) -> str:
    return ending if ending == "finished" else f"{ending} {share:.0%}"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _bytes(size: int) -> str:
    shown = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if shown < 1000:
            return f"{shown:.3g} {unit}"
        shown /= 1000
    return f"{shown:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
