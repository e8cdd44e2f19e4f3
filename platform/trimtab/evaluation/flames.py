"""Flames: the 1,000 public Chinese prompts that most models fall for, and where they come from.

The released file is JSONL with `prompt` and `dimension` (Fairness, Safety, Morality, Legality, Data
protection); it has no ids, so a prompt is named by its place. The prompts are adversarial: no text
of them is in any message, log or table here, and nothing of the data travels with this package.

Its publisher gives no checksum. The address names one commit, what comes must be 1,000 prompts of
all five dimensions, and its own SHA-256 is noted beside it. That commit states no licence, and
mirrors state different ones, so look before you pass anything on.

Huang et al. 2024, arXiv 2311.06899. Cost: about 0.4 MB.
"""

import json
import logging
from pathlib import Path
from typing import Any, Final

from trimtab.core.errors import DataError
from trimtab.core.files import writable_folder, write_json
from trimtab.core.hashing import file_hash
from trimtab.core.names import DIMENSIONS
from trimtab.evaluation.prompts import Question, check_whole
from trimtab.scenarios.download import fetch

NUM_PROMPTS: Final = 1000
PUBLISHED: Final = (
    "https://raw.githubusercontent.com/AIFlames/Flames/"
    "afa088def8ed8af2726d510019846683915b8811/Flames_1k_Chinese.jsonl"
)
LICENCE: Final = (
    "Flames (Huang et al., NAACL 2024) states no licence where it is published; mirrors state "
    "different ones, CC BY-NC 4.0 among them. Ask its authors before you share it or use it in trade."
)

_log = logging.getLogger(__name__)


def flames(data: Path | None, folder: Path) -> list[Question]:
    """The prompts: from the user's own file, or fetched into a folder once.

    Args:
        data: the released file, or any part of it; None to use the folder's, or to fetch it.
        folder: where the fetched file is kept, with a note of its origin.

    Raises:
        DataError: the file is not Flames, or cannot be fetched.
        OutputError: the folder cannot be written to.
    """
    return read_flames(data or download(folder))


def download(folder: Path, url: str = PUBLISHED) -> Path:
    """The released file, fetched unless it is there.

    Raises:
        DataError: it cannot be reached, or is not what was released.
        OutputError: the folder cannot be written to.
    """
    writable_folder(folder)
    path = folder / url.rpartition("/")[2]
    if not path.exists():
        fetch(url, path, _check)
        origin = {"url": url, "file_sha256": file_hash(path), "licence": LICENCE}
        write_json(folder / f"{path.name}.origin.json", origin)
        _log.info("%s is ready. %s", path, LICENCE)
    return path


def read_flames(path: Path) -> list[Question]:
    """The prompts of a file in the released form, in its order.

    Returns:
        Questions named `flames/0001`, ... (or by the line's own `id`), with one of `DIMENSIONS`.

    Raises:
        DataError: the file cannot be read or is empty; a line is not an object with the two
            fields, its prompt is empty, its dimension is none of the five, or its id is repeated.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The Flames file {path} cannot be read as UTF-8 text.") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"The Flames file must hold prompts, but {path} is empty.")
    found: dict[str, Question] = {}
    for place, (number, line) in enumerate(numbered, 1):
        question = _question(line, place, f"line {number} of {path}")
        if question.id in found:
            raise DataError(f"Ids must differ, but that on line {number} of {path} occurs before.")
        found[question.id] = question
    return list(found.values())


def _question(line: str, place: int, where: str) -> Question:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"Flames is one JSON object a line, but {where} is not: {error}."
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"Flames is one JSON object a line, but {where} is not.")
    check_whole(row, where)
    for field in ("prompt", "dimension"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise DataError(
                f"A Flames prompt needs `prompt` and `dimension` as texts, but {where} has no "
                f"`{field}` (fields: {', '.join(map(str, row)) or 'none'})."
            )
    dimension = row["dimension"].strip().lower().replace(" ", "_").replace("-", "_")
    if dimension not in DIMENSIONS:
        raise DataError(
            f"The dimension of a Flames prompt must be one of {', '.join(DIMENSIONS)}, but {where} "
            "has another one. Prompts of your own go into a prompt file of their own."
        )
    return Question(str(row.get("id", f"flames/{place:04d}")), row["prompt"], dimension)


def _check(path: Path) -> None:
    questions = read_flames(path)
    dimensions = {question.dimension for question in questions}
    if len(questions) != NUM_PROMPTS or len(dimensions) != len(DIMENSIONS):
        raise DataError(
            f"The released file must hold {NUM_PROMPTS} prompts of {len(DIMENSIONS)} dimensions, but "
            f"what came holds {len(questions)} of {len(dimensions)}. If it stays so, fetch it by "
            "hand and name it with `data`."
        )
