"""Is this a whole table? Structure of a tab-separated file, checked record by record.

polars reads the values fast, but it pads a truncated line with nulls without a word and does not
say where a file stops being UTF-8. This pass decodes each line and counts each record's fields
with the standard library's `csv`, whose quoting rules the published file follows, and so knows the
line number of everything that it complains about. It does not look at any value.

Cost: 1 s for the published file's 147 MB, one line in memory.
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trimtab.core.errors import DataError


class Record(NamedTuple):
    """One record of the file; a quoted field may run over several lines."""

    line: int
    """The line it begins on, counted from 1."""
    fields: list[str]
    """Its fields, unquoted."""


def records(path: Path) -> Iterator[Record]:
    """Every record of the file, the header first.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or has a quote that never closes.
    """
    line = 1
    try:
        with path.open("rb") as file:
            reader = csv.reader(_decoded(file, path), delimiter="\t")
            for fields in reader:
                yield Record(line, fields)
                line = reader.line_num + 1
    except OSError as error:
        raise DataError(f"The scenario file {path} cannot be read: {error.strerror}.") from error
    except csv.Error as error:
        raise DataError(
            f"{path} must be tab-separated text, but line {line} is not: {error}. "
            'A quote (") may be open there that never closes.'
        ) from error


def check(path: Path, columns: Sequence[str]) -> int:
    """Proves that the file has these columns and that every record is whole.

    Returns:
        The number of records below the header.

    Raises:
        DataError: also where the file is empty, lacks a column, or has a line with too few or too
            many fields, of which a truncated last line is the usual case.
    """
    rows = records(path)
    header = next(rows, None)
    if header is None:
        raise DataError(f"{path} is empty: a header line and at least one row must be in it.")
    missing = [column for column in columns if column not in header.fields]
    if missing:
        raise DataError(
            f"{path} must have the {len(columns)} tab-separated columns of Social-Chemistry-101, "
            f"but lacks {', '.join(f'`{column}`' for column in missing)}. Its first line is the "
            f"header and has {len(header.fields)} fields; add what is missing."
        )
    num_rows = 0
    for row in rows:
        num_rows += 1
        if len(row.fields) != len(header.fields):
            raise DataError(
                f"Each line of {path} must have {len(header.fields)} fields, but line {row.line} "
                f"has {len(row.fields)}. If it is the last line, the file was cut off while it was "
                "copied: fetch it again. If not, look there for a stray tab or an unclosed quote."
            )
    return num_rows


def line_of(path: Path, row: int) -> int:
    """The line that a row (counted from 0, below the header) begins on."""
    return next(itertools.islice(records(path), row + 1, None)).line


def _decoded(file: Iterator[bytes], path: Path) -> Iterator[str]:
    offset = 0
    encoding = "utf-8-sig"
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} must be UTF-8, but line {number} is not: byte {offset + error.start} is "
                f"0x{line[error.start]:02x}. Save it as UTF-8 (`iconv -f LATIN1 -t UTF-8`, if it "
                "is Latin-1) and try again."
            ) from error
        offset += len(line)
        encoding = "utf-8"
