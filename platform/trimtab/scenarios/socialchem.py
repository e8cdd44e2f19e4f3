"""Social-Chemistry-101: from the published table to the rows that say something about an action.

A row is kept when `rot-bad` is 0, `m` is 1, and the action, its moral foundations, its judgment and
its agreement are all there; each other row is counted under the first of these that fails. A value
that no annotator could have given (a judgment of 7, an unknown foundation) is an error in the file
and is named by line; it is never dropped quietly. The action's text stays as published, full stop
included; only white space around it goes.

Not here: moral vectors (`vectors`), splits (`split`), the structure of the file (`tsv`).

Forbes et al. 2020, arXiv 2011.00620 (the data); Li, Teng and Wang 2026, arXiv 2603.15615 (which
rows are kept); docs: METHODS 1.1. Cost: the six columns in use, 0.3 GB for the published file.
"""

from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import polars as pl

from trimtab.core.errors import DataError
from trimtab.core.poles import FOUNDATIONS
from trimtab.scenarios import tsv

COLUMNS: Final = (
    "area",
    "m",
    "split",
    "rot-agree",
    "rot-categorization",
    "rot-moral-foundations",
    "rot-char-targeting",
    "rot-bad",
    "rot-judgment",
    "action",
    "action-agency",
    "action-moral-judgment",
    "action-agree",
    "action-legal",
    "action-pressure",
    "action-char-involved",
    "action-hypothetical",
    "situation",
    "situation-short-id",
    "rot",
    "rot-id",
    "rot-worker-id",
    "breakdown-worker-id",
    "n-characters",
    "characters",
)
"""The published columns, in order. A file's own order is free; none of them may be missing."""

BAD, VERSION, ACTION = "rot-bad", "m", "action"
MORAL, JUDGMENT, AGREE = "rot-moral-foundations", "action-moral-judgment", "action-agree"

SCALES: Final = {JUDGMENT: range(-2, 3), AGREE: range(5)}
"""The answers that the annotators could choose from."""

_DROPS: Final = {
    "rot-bad is not 0": pl.col(BAD).ne_missing(0),
    "m is not 1": pl.col(VERSION).ne_missing(1),
    **{
        f"{column} is missing": pl.col(column).is_null()
        for column in (ACTION, MORAL, JUDGMENT, AGREE)
    },
}
DROP_REASONS: Final = tuple(_DROPS)
"""Why a row is dropped; a row with several reasons is counted under the first."""


class Table(NamedTuple):
    """The rows that were kept, and what became of the others."""

    rows: pl.DataFrame
    """`action` str, `foundations` list[i8] (distinct, ascending), `judgment` i8, `agree` i8; in
    file order, so that a row's position is its `action_id`."""
    num_read: int
    """Rows in the file."""
    dropped: dict[str, int]
    """Rows by the reason they were dropped for; every reason of `DROP_REASONS`, in that order."""


def read(path: Path) -> Table:
    """Reads a Social-Chemistry-101 file.

    Args:
        path: tab-separated UTF-8 text with the published columns; numbers as `4` or `4.0`.

    Raises:
        DataError: the file cannot be read, is empty or cut off, lacks a column, holds a value off
            its scale, or has no row that can be kept.
    """
    num_read = tsv.check(path, COLUMNS)
    values = _typed(_scan(path, num_read), path)
    labelled = values.join(_foundations(values, path), on=MORAL, how="left", maintain_order="left")
    reasons = labelled.select(
        pl.coalesce(pl.when(drop).then(pl.lit(reason)) for reason, drop in _DROPS.items())
    ).to_series()
    dropped = {reason: int((reasons == reason).sum()) for reason in DROP_REASONS}
    rows = labelled.filter(reasons.is_null()).select(
        ACTION,
        "foundations",
        judgment=pl.col(JUDGMENT).cast(pl.Int8),
        agree=pl.col(AGREE).cast(pl.Int8),
    )
    if rows.is_empty():
        raise DataError(
            f"{path} must have a row that can be kept, but all {num_read} were dropped "
            f"({', '.join(f'{reason}: {count}' for reason, count in dropped.items() if count)}). "
            "A row needs rot-bad 0, m 1, an action, its foundations, its judgment and agreement."
        )
    return Table(rows, num_read, dropped)


def _scan(path: Path, num_read: int) -> pl.DataFrame:
    lazy = pl.scan_csv(path, separator="\t", infer_schema=False)
    text = pl.col(BAD, VERSION, ACTION, MORAL, JUDGMENT, AGREE).str.strip_chars()
    try:
        frame = lazy.select(pl.when(text != "").then(text)).collect()
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path} cannot be read as tab-separated text: {error}. A field that contains a quote "
            '(") must itself be quoted, and its quotes doubled.'
        ) from error
    if frame.height != num_read:
        raise DataError(
            f"{path} has {num_read} rows by its line ends but {frame.height} by its quotes. "
            'A field that contains a quote (") must itself be quoted, and its quotes doubled.'
        )
    return frame


def _typed(text: pl.DataFrame, path: Path) -> pl.DataFrame:
    numeric = (BAD, VERSION, *SCALES)
    values = text.with_columns(pl.col(numeric).cast(pl.Float64, strict=False))
    for column in numeric:
        allowed = pl.col(column).is_finite()
        if column in SCALES:
            allowed = pl.col(column).is_in([float(answer) for answer in SCALES[column]])
        wrong = ~values.select(allowed.fill_null(value=False)).to_series()
        rows = (wrong & text[column].is_not_null()).arg_true()
        if len(rows):
            _refuse(path, rows[0], column, text[column][rows[0]])
    return values


def _foundations(values: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Which foundations each distinct spelling of `rot-moral-foundations` names."""
    spellings = values[MORAL].drop_nulls().unique(maintain_order=True)
    for spelling in spellings:
        if not set(spelling.split("|")) <= set(FOUNDATIONS):
            _refuse(path, (values[MORAL] == spelling).arg_true()[0], MORAL, spelling)
    indices = [sorted({FOUNDATIONS.index(name) for name in s.split("|")}) for s in spellings]
    return pl.DataFrame(
        {MORAL: spellings, "foundations": pl.Series(indices, dtype=pl.List(pl.Int8))}
    )


def _refuse(path: Path, row: int, column: str, value: str) -> NoReturn:
    rule = "a number"
    if column in SCALES:
        rule = "one of " + ", ".join(str(answer) for answer in SCALES[column])
    if column == MORAL:
        rule = f"foundations joined by `|`, out of {', '.join(FOUNDATIONS)}"
    raise DataError(
        f"`{column}` must be {rule}, but line {tsv.line_of(path, row)} of {path} has {value!r}. "
        "Correct it, or empty the field to have the row dropped and counted."
    )
