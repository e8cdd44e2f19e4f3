"""Questions that a model is asked, and the file they are read from.

One JSON object a line: `id` and `prompt`, and what a judge may want to know besides (`dimension`,
`reference`). Other fields are kept as they are. Nothing is guessed: a missing field, an empty
prompt or a repeated id is an error that names the line.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from trimtab.core.errors import DataError

REQUIRED: Final = ("id", "prompt")
OPTIONAL: Final = ("dimension", "reference")


class Question(NamedTuple):
    """One prompt."""

    id: str
    """Names it in answers and tables."""
    prompt: str
    """What the user says."""
    dimension: str = ""
    """The part of its benchmark that it belongs to."""
    reference: str = ""
    """What a judge may compare with."""
    extra: dict[str, Any] = {}  # noqa: RUF012 (never written to)
    """Fields of the line that have no meaning here."""


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL file, in its order; blank lines are passed over.

    Raises:
        DataError: the file cannot be read or has no line; a line is not a JSON object, lacks a
            field, has an empty prompt or half a character, or repeats an id.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # U+2028 may stand within a line
    except OSError as error:
        raise DataError(
            f"The prompt file {path} cannot be read: {error.strerror or error}. Check its path."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"The prompt file {path} cannot be read as UTF-8 text: {error}.") from error
    found: dict[str, Question] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            question = _question(line, f"line {number} of {path}")
            if question.id in found:
                raise DataError(
                    f"Ids must differ, but {question.id!r} occurs again on line {number} of {path}."
                )
            found[question.id] = question
    if not found:
        raise DataError(f"A prompt file must hold a prompt, but {path} has none.")
    return list(found.values())


def check_whole(row: dict[str, Any], where: str) -> None:
    """Refuses one half of a surrogate pair, which JSON may write and no UTF-8 text can hold.

    Raises:
        DataError: a key or a text of the row has one.
    """
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(
            f"Text must be whole characters, but {where} has {half}, one half of a surrogate pair. "
            "Write both halves, or leave it out."
        ) from None


def _question(line: str, where: str) -> Question:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"A prompt must be one JSON object, but {where} is not: {error}."
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"A prompt must be one JSON object, but {where} is a {type(row).__name__}.")
    check_whole(row, where)
    for name in REQUIRED:
        if name not in row:
            raise DataError(
                f"A prompt must have `{name}`, but {where} has only {', '.join(row) or 'nothing'}."
            )
    for name in (*REQUIRED, *OPTIONAL):
        if name in row and not isinstance(row[name], str):
            kind = type(row[name]).__name__
            raise DataError(f"`{name}` must be text, but on {where} it is a {kind}.")
    for name in REQUIRED:
        if not row[name].strip():
            raise DataError(f"`{name}` must not be empty, but on {where} it is.")
    known = {name: row.pop(name) for name in (*REQUIRED, *OPTIONAL) if name in row}
    return Question(**known, extra=row)
