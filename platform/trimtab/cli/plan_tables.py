"""The two tables of `trimtab plan`: what models weigh, and how they run."""

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from trimtab.cli.console import OUT

if TYPE_CHECKING:
    from trimtab.stream.planning import Planned

_GB = 1e9
_MINUTE, _HOUR = 60, 3_600
_COLUMNS = (
    "Model",
    "Params\nB",
    " In",
    "Size\nGB",
    " Blocks",
    "GPUs",
    "Need\nGB",
    "x",
    "Read",
    "Compute",
    "Time",
    "Store\nGB",
)
_DETAILS = ("Read", "Compute", "Store\nGB")
"""Left out on a terminal narrower than `_WIDE`."""
_WIDE = 100
_WEIGHTS = (
    "Model",
    "Linear\nB",
    " Expert\nB",
    " Embed\nB",
    " Other\nB",
    " bf16\nGB",
    "  NF4\nGB",
    " MXFP4\nGB",
    " 8-bit\nGB",
    " Batch\nGB",
    " State\nGB",
)
_WEIGHTS_DETAILS = (" Embed\nB", " Other\nB", " Batch\nGB", " State\nGB")


def weights_table(found: Sequence["Planned"]) -> Table:
    """Parameters by kind, bytes by precision; what a batch and the hidden states take beside them."""
    table = _table(show_footer=False)
    shown = [OUT.width >= _WIDE or name not in _WEIGHTS_DETAILS for name in _WEIGHTS]
    for name in compress(_WEIGHTS, shown):
        table.add_column(name, justify="left" if name == "Model" else "right", no_wrap=True)
    for one in found:
        table.add_row(*compress(_weights_row(one), shown))
    return table


def _weights_row(one: "Planned") -> list[str]:
    parts, p = one.weights.parts, one.plan
    counts = (parts.linear, parts.experts, parts.embedding, parts.other)
    sizes = [parts.bytes_in(precision) for precision in ("bf16", "nf4", "mxfp4", "int8")]
    return [
        one.spec.label,
        *(f"{count / _GB:.2f}" if count < 100 * _GB else f"{count / _GB:.1f}" for count in counts),
        *map(_size, sizes),
        _size(p.activation_bytes) if p else "-",
        _size(p.hidden_state_bytes) if p else "-",
    ]


def run_table(found: Sequence["Planned"]) -> Table:
    """How each model runs, and what that costs in all."""
    table = _table(show_footer=True)
    plans = [one.plan for one in found if one.plan]
    footer = {
        "Model": f"{len(plans)} models" if len(plans) != 1 else "1 model",
        "Read": _time(sum((p.seconds_read for p in plans), 0.0)),
        "Compute": _time(sum((p.seconds_compute for p in plans), 0.0)),
        "Time": _time(sum((p.seconds for p in plans), 0.0)),
        "Store\nGB": _size(sum(p.store_bytes for p in plans)),
    }
    shown = [OUT.width >= _WIDE or name not in _DETAILS for name in _COLUMNS]
    for name in compress(_COLUMNS, shown):
        side = "left" if name in ("Model", " In", " Blocks") else "right"
        table.add_column(name, footer.get(name, ""), justify=side, no_wrap=True)
    for one in found:
        row = compress(_row(one), shown)
        table.add_row(*map(Text, row), style="red" if one.plan is None else None)
    return table


def _row(one: "Planned") -> list[str]:
    head = [one.spec.label, f"{one.weights.parameters / _GB:.1f}"]
    p = one.plan
    if p is None:
        held = one.spec.precision if one.spec.precision == "nf4" else one.weights.published
        return [*head, f" {held}", _size(one.weights.parts.bytes_in(held)), " none fits"]
    return [
        *head,
        f" {p.precision}",
        _size(one.weights.parts.bytes_in(p.precision)),
        f" {p.source}",
        _share(p.gpus_per_replica),
        _size(p.needed_bytes),
        str(p.replicas),
        _time(p.seconds_read),
        _time(p.seconds_compute),
        _time(p.seconds),
        _size(p.store_bytes),
    ]


def _share(gpus: float) -> str:
    if gpus == 0:
        return "CPU"
    return f"{gpus:g}" if gpus >= 1 else f"1/{round(1 / gpus)}"


def _size(size: int) -> str:
    return f"{size / _GB:,.1f}" if size < 100 * _GB else f"{size / _GB:,.0f}"


def _time(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} h"


def _table(*, show_footer: bool) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        header_style="bold",
        show_footer=show_footer,
    )
