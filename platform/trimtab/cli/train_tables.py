"""What `trimtab train` prints: a line per layer, what the columns mean, and where things are."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from trimtab.cli.console import OUT

if TYPE_CHECKING:
    from trimtab.report.tables import Cell
    from trimtab.stream.train import Trained
    from trimtab.stream.train_config import TrainJob

_LEGEND = """\
On {rows} held-out rows. L0: active latents of a row. FVU: variance unexplained,
0 is perfect. Dead: latents that were active on no row. CE: cross-entropy that
the model keeps when the reconstruction takes the place of the block's output:
1 is all of it, 0 is as bad as zeros. Token: the same autoencoder on the states
of single tokens, and how much longer these are than {pooled} rows."""
_TWIN = "This model is a twin: its weights are random, so these numbers are no finding."
_POOR = """Layers {layers}: FVU is above 1, so that the rows' mean alone would be nearer to them. Training came
to nothing or went astray: look at the learning curves; train longer, or with another learning rate."""
_DASH = "–"


def print_trained(found: "Trained", job: "TrainJob") -> None:
    """Prints what a training came to."""
    from trimtab.report.training import quality_table
    from trimtab.stream.twins import original
    from trimtab.track.mlflow import ui_command

    result = found.result
    OUT.print(_table(quality_table(result.metrics)))
    rows = f"{result.rows[job.evaluate.split]:,}"
    legend = _LEGEND.format(
        rows=rows, pooled="mean-pooled" if job.extract.pooling == "mean" else "last-token"
    )
    OUT.print(Text(legend, style="dim"))
    if original(found.card) is not None:
        OUT.print(Text(_TWIN, style="bold yellow"))
    if poor := [layer for layer, of in result.metrics.items() if of.get("sae/fvu", 0.0) > 1]:
        said = _POOR.format(layers=", ".join(map(str, poor)))
        OUT.print(Text(said, style="bold yellow"))
    how = "trained before, reused" if found.reused else f"{result.seconds:.1f} s"
    OUT.print(
        f"\n{result.rows['train']:,} training rows, {result.epochs:g} epochs, "
        f"{result.steps:,} steps: {how}",
        highlight=False,
    )
    _folders("Autoencoders, for trimtab and SAELens", list(found.coders.values()))
    _folders("For sparsify", list(found.exports.values()))
    _folders("Figures", found.figures)
    OUT.print(f"\nMLflow run {found.run_id} in trimtab/sae:", highlight=False)
    OUT.print(Text(ui_command(found.tracking_uri), style="bold"), soft_wrap=True)


def _folders(title: str, paths: list[Path]) -> None:
    """A folder and what of it is meant, on one line."""
    from trimtab.cli.show import near

    if paths:
        OUT.print(Text(f"\n{title}", style="bold"))
        names = ", ".join(path.name for path in paths)
        OUT.print(Text(f"  {near(paths[0].parent)}: {names}"), soft_wrap=True)


def _table(rows: "list[dict[str, Cell]]") -> Table:
    """One line per layer."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    columns = {
        "l0": ("L0", "{:.1f}"),
        "fvu": ("FVU", "{:#.3g}"),
        "mse": ("MSE", "{:#.3g}"),
        "dead": ("Dead", "{:.0%}"),
        "ce_recovered": ("CE", "{:#.3g}"),
        "token_l0": ("Token: L0", "{:.1f}"),
        "token_fvu": ("FVU", "{:#.3g}"),
        "norm_ratio": ("length", "{:.2f} x"),
    }
    table.add_column("Layer")
    for title, _ in columns.values():
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        shown = [
            _DASH if row[column] is None else form.format(row[column])
            for column, (_, form) in columns.items()
        ]
        table.add_row(f"L{row['layer']}", *shown)
    return table
