"""`trimtab prepare`: a data file becomes scenarios, with every row accounted for."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.console import ERR, OUT, echo_json

if TYPE_CHECKING:
    from trimtab.scenarios.prepare import Prepared


class Split(StrEnum):
    """What is shuffled."""

    position = "position"
    action = "action"


def prepare(
    out: Annotated[Path, typer.Option(help="Folder for scenarios.parquet and manifest.json.")],
    data: Annotated[
        Path | None, typer.Option(help="Social-Chemistry-101 file (tab-separated).")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the published archive (28 MB) into --out.")
    ] = False,
    split: Annotated[
        Split, typer.Option(help="Shuffle row positions (published), or action texts (no leak).")
    ] = Split.position,
    seed: Annotated[int, typer.Option(help="Seed of the split; published: 42.")] = 42,
    as_json: Annotated[bool, typer.Option("--json", help="The manifest on stdout.")] = False,
) -> None:
    """Turns Social-Chemistry-101 into scenarios: moral vectors, split, and every count.

    Rows that are dropped are counted by their reason; a value that cannot be is an error that names
    its line. The folder can then be given to --data of the other commands.
    """
    from trimtab.core.config import build
    from trimtab.scenarios import prepare as driver

    if download == (data is not None):
        raise typer.BadParameter("Give either --data FILE or --download.")
    file = _fetched(out) if data is None else data
    tree = {"data": file, "split": str(split), "seed": seed}
    config = build(driver.PrepareConfig, tree, where="trimtab prepare")
    made = driver.prepare(config, out)
    if as_json:
        found = made.manifest.model_dump(mode="json")
        echo_json(found | {"folder": str(made.folder), "reused": made.reused})
    else:
        _print(made)


def _fetched(out: Path) -> Path:
    from trimtab.scenarios.download import LICENCE, PUBLISHED, download

    ERR.print(f"Fetching {PUBLISHED.url}", soft_wrap=True)
    file = download(out)
    ERR.print(LICENCE, highlight=False)
    return file


def _print(made: "Prepared") -> None:
    from rich import box
    from rich.table import Table

    manifest = made.manifest
    table = Table("Foundation", box=box.SIMPLE_HEAD, pad_edge=False)
    for polarity in ("virtue", "vice", "neutral"):
        table.add_column(polarity, justify="right")
    for foundation, counts in manifest.counts.items():
        table.add_row(foundation, *(f"{count:,}" for count in counts.values()))
    OUT.print(
        f"{manifest.rows_read:,} rows read, {manifest.kept:,} kept, "
        f"{manifest.expanded:,} scenarios (one per action and foundation)"
    )
    for reason, count in manifest.dropped.items():
        OUT.print(f"  {count:,} dropped: {reason}")
    OUT.print(table)
    for side, leaked in manifest.leak.items():
        OUT.print(
            f"{leaked:,} of {manifest.kept_by_split[side]:,} {side} rows repeat a training action"
        )
    if any(manifest.leak.values()):
        OUT.print("Split by text with --split action to have none.")
    done = "Finished before, reused" if made.reused else "Written"
    OUT.print(f"{done}: {made.folder}", soft_wrap=True)
