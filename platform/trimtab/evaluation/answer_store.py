"""Answers in Parquet parts: each is finished or not there, and each answer counts once.

A folder of `part-HASH.parquet`, named by the keys that it holds: whoever writes the same answers
again replaces the part by itself. Two workers that were given overlapping work (a machine that was
thought lost) leave an answer in two parts; it is read once.

Texts may be sensitive: they stay in this folder (DESIGN 4), whoever logs takes ids and numbers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from trimtab.core.errors import DataError
from trimtab.core.files import finished_file, writable_folder
from trimtab.core.hashing import content_hash
from trimtab.evaluation.generate import Finish

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("prompt_id", pa.string()),
        ("arm", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("finish", pa.string()),
        ("strength", pa.float32()),
    ]
)


class Answer(NamedTuple):
    """What a model said to a prompt under an arm."""

    key: str
    """Content hash of all that made it."""
    prompt_id: str
    """The question."""
    arm: str
    """Name of the arm."""
    text: str
    """Without special tokens and outer blanks; may be sensitive."""
    tokens: list[int]
    """Without the one that ended it."""
    finish: Finish
    """`stop` (the model ended it), `length` (as long as allowed, be it blanks alone)."""
    strength: float
    """Mean |change| / mean |x| at the arm's layer; 0 for the baseline."""


class AnswerStore:
    """A folder of answers."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder.

        Raises:
            OutputError: it cannot be written.
        """
        self.folder = writable_folder(folder)

    def keys(self) -> set[str]:
        """Keys of the answers that are there.

        Raises:
            DataError: a part is damaged.
        """
        tables = (_table(part, ["key"]) for part in self._parts())
        return {key for table in tables for key in table["key"].to_pylist()}

    def write(self, answers: Sequence[Answer]) -> None:
        """Adds a part.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        rows = [answer._asdict() for answer in answers]
        with finished_file(self._part(answer.key for answer in answers)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary)

    def read(self, keys: Iterable[str] | None = None) -> list[Answer]:
        """Answers by key, in the order of the keys; all of them, sorted by key, without keys.

        Raises:
            DataError: a key that is not there, or a damaged part.
        """
        rows: dict[str, dict[str, Any]] = {}
        for part in self._parts():
            for row in _table(part).to_pylist():
                rows.setdefault(row["key"], row)
        wanted = sorted(rows) if keys is None else list(keys)
        missing = [key for key in wanted if key not in rows]
        if missing:
            raise DataError(
                f"{self.folder} lacks {len(missing)} of {len(wanted)} answers. Run the same command "
                "again: it goes on where it stopped."
            )
        return [Answer(**rows[key]) for key in wanted]

    def has_part(self, keys: Iterable[str]) -> bool:
        """Whether just these answers were written together."""
        return self._part(keys).is_file()

    def _part(self, keys: Iterable[str]) -> Path:
        return self.folder / f"part-{content_hash(sorted(keys))}.parquet"

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))


def _table(part: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.ParquetFile(part).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"The answers {part} cannot be read. Delete the file and run the same command again, "
            "which makes them anew."
        ) from error
