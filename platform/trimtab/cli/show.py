"""What a run looks like while it goes, and what is printed when it is done.

On a terminal each stage is a bar that stays when it is done; elsewhere it is one line on stderr.
A table shows each measure at its best layer; ARI never stands without its noise, and what is
undefined is a dash.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from trimtab.cli.console import ERR, OUT, echo_json
from trimtab.report.tables import Cell
from trimtab.stream.config import DiagnoseConfig
from trimtab.stream.diagnose import Outcome
from trimtab.stream.tasks import Extracted
from trimtab.track.mlflow import ui_command

_DASH = "–"
_READY = "get ready"
_NOTICEABLE = 0.05
"""Seconds."""
_TWINS = "{twins} of these are twins: their weights are random, so their numbers are no finding."
_LEGEND = """\
{rows} scenarios. Each measure at its best layer; layers count from L0.
  Cosine    virtue against vice: 1 is indifferent, 0 or less tells them apart
  Gradient  rank correlation with how clear a case people find it: up to 1
  ARI       clusters against virtue, vice, neutral: up to 1, with the rows
            that no cluster took (noise); – where there is no cluster
  R2        the ten moral dimensions read out on held-out rows: up to 1"""


class Stages:
    """Shows a driver's `report(stage, done, of)`.

    A stage that is first heard of with something done has been running since the one before.
    """

    def __init__(self) -> None:
        live = ERR.is_terminal
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", justify="right"),
            TimeElapsedColumn(),
            console=ERR,
            disable=not live,
        )
        self._live = live
        self._open: dict[str, TaskID] = {}
        self._idle: TaskID | None = None
        self._last_end = time.monotonic()

    def __enter__(self) -> "Stages":
        self._progress.start()
        self.report(_READY, 0, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._wake()
        self._progress.stop()

    def report(self, stage: str, done: int, of: int) -> None:
        """Told by the driver; once a stage is done, the same name begins a new one."""
        if stage != _READY and _READY in self._open:
            self.report(_READY, 1, 1)
        if stage not in self._open:
            self._wake()
            self._open[stage] = self._progress.add_task(stage, total=of, count="")
            if done > 0:
                self._progress.tasks[-1].start_time = self._last_end
            else:
                self._last_end = time.monotonic()
        self._progress.update(
            self._open[stage], completed=done, total=of, count=f"{done}/{of}" if of > 1 else ""
        )
        if done >= of:
            self._finish(stage)

    def _finish(self, stage: str) -> None:
        now = time.monotonic()
        if not self._live:
            took = now - self._last_end
            seconds = f" ({took:.1f} s)" if took > _NOTICEABLE else ""
            ERR.print(f"{stage}{seconds}", markup=False, highlight=False)
        self._last_end = now
        del self._open[stage]
        self._rest()

    def _rest(self) -> None:
        if self._idle is None:
            self._idle = self._progress.add_task("[dim]working", total=None, count="")

    def _wake(self) -> None:
        if self._idle is not None:
            self._progress.remove_task(self._idle)
            self._idle = None


def opening(config: DiagnoseConfig) -> None:
    """What is about to happen."""
    names = ", ".join(model.label for model in config.models)
    ERR.print(Text(config.asks, style="bold"))
    ERR.print(f"Models: {names}\nData: {config.data.path}\nOut: {near(config.out)}", markup=False)


def outcome(found: Outcome, *, as_json: bool) -> None:
    """The result of a diagnosis."""
    if as_json:
        echo_json(document(found))
        return
    OUT.print(summary_table(found.table, [d.reused for d in found.diagnoses]))
    rows = max(d.drawn.rows for d in found.diagnoses)
    OUT.print(Text(_LEGEND.format(rows=f"{rows:,}"), style="dim"))
    if twins := sum(d.provenance.get("twin_of") is not None for d in found.diagnoses):
        OUT.print(Text(_TWINS.format(twins=twins), style="bold yellow"))
    _listed("Figures", [near(path) for path in found.figures])
    _listed("MLflow runs in trimtab/diagnose", [f"{name}  {r}" for name, r in found.runs.items()])
    url = found.tracking_uri
    address = url if url.startswith("http") else "http://127.0.0.1:5000"
    OUT.print(f"\nCompare the models by layer in the MLflow UI, at {address}:")
    OUT.print(Text(ui_command(url), style="bold"), soft_wrap=True)


def document(found: Outcome) -> dict[str, object]:
    """Every measure by layer, for machines."""
    return {
        "models": [
            diagnosis.to_json()
            | {"reused": diagnosis.reused, "mlflow_run": found.runs[diagnosis.card.label]}
            for diagnosis in found.diagnoses
        ],
        "summary": found.table,
        "figures": [str(path) for path in found.figures],
        "tracking_uri": found.tracking_uri,
    }


def summary_table(rows: Sequence[dict[str, Cell]], reused: Sequence[bool]) -> Table:
    """One line per model."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("Model", overflow="fold")
    for name in ("Layers", "Cosine", "Gradient", "ARI (noise)", "R2"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Result")
    for row, was in zip(rows, reused, strict=True):
        noise = row["ari_noise"]
        ari = _peak(row, "ari") + (f" ({noise:.0%})" if isinstance(noise, float) else "")
        table.add_row(
            Text(str(row["model"])),
            str(row["layers"]),
            _peak(row, "cosine"),
            _peak(row, "gradient"),
            ari,
            _peak(row, "r2"),
            "reused" if was else "new",
        )
    return table


def extracted(found: Sequence[Extracted], *, as_json: bool) -> None:
    """The result of an extraction."""
    if as_json:
        echo_json([_store(one) for one in found])
        return
    for one in found:
        store = _store(one)
        cost = f"{one.stats.tokens:,} tokens in {one.stats.seconds:.1f} s"
        how = "finished before, reused" if store["reused"] else cost
        line = f"{store['model']}: {store['rows']:,} rows x {store['layers']} layers, {how}"
        OUT.print(f"{line}\n  {near(one.folder)}", markup=False, highlight=False, soft_wrap=True)


def near(path: Path) -> str:
    """A path as seen from here, if it is below here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _store(one: Extracted) -> dict[str, str | int | float | bool]:
    return {
        "model": one.task.card.label,
        "store": str(one.folder),
        "rows": one.task.plan.num_rows,
        "prompts": one.task.plan.num_prompts,
        "tokens": one.task.plan.num_tokens,
        "layers": len(one.task.request.layers),
        "d_model": one.task.card.d_model,
        "seconds": one.stats.seconds,
        "reused": one.stats.tokens == 0,
    }


def _peak(row: dict[str, Cell], column: str) -> str:
    value = row[column]
    return f"{value:z.2f} L{row[f'{column}_layer']}" if isinstance(value, float) else _DASH


def _listed(title: str, lines: Sequence[str]) -> None:
    OUT.print(Text(f"\n{title}", style="bold"))
    for line in lines:
        OUT.print(Text(f"  {line}"), soft_wrap=True)
