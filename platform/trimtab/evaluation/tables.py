"""Judged answers as Parquet: what may be shared, and what stays here.

    scores.parquet   prompt_id, dimension, arm, aspect, value, label, best, failed, answer_hash
    pairs.parquet    prompt_id, dimension, arm, choice, candidate_first, baseline_first, failed,
                     answer_hash
    texts.parquet    prompt_id, dimension, arm, question, answer, said

The first two hold ids, numbers and hashes, and go to the tracker. The third holds the texts and
what the judge said word for word (which may quote them): it stays in its folder, unless `log_text`
says otherwise (DESIGN 4). All are tidy: a row for each (prompt, arm), and aspect.
"""

from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from trimtab.core.files import finished_file, writable_folder
from trimtab.evaluation.judged import Judged, text_hash
from trimtab.evaluation.judges.verdict import Verdict

_KEY: Final = [("prompt_id", pa.string()), ("dimension", pa.string()), ("arm", pa.string())]
SCORES: Final = pa.schema(
    [
        *_KEY,
        ("aspect", pa.string()),
        ("value", pa.float64()),
        ("label", pa.string()),
        ("best", pa.bool_()),
        ("failed", pa.string()),
        ("answer_hash", pa.string()),
    ]
)
PAIRS: Final = pa.schema(
    [
        *_KEY,
        ("choice", pa.string()),
        ("candidate_first", pa.float64()),
        ("baseline_first", pa.float64()),
        ("failed", pa.string()),
        ("answer_hash", pa.string()),
    ]
)
TEXTS: Final = pa.schema(
    [*_KEY, ("question", pa.string()), ("answer", pa.string()), ("said", pa.list_(pa.string()))]
)


class TableFiles(NamedTuple):
    """Where the tables are."""

    scores: Path
    pairs: Path
    texts: Path
    """Sensitive, unless the data is known not to be."""

    def shared(self, log_text: bool) -> tuple[Path, ...]:
        """What may go to the tracker."""
        return tuple(self) if log_text else (self.scores, self.pairs)


def write_tables(judged: Judged, folder: Path) -> TableFiles:
    """Writes the three tables, each finished or not at all.

    Raises:
        OutputError: the folder cannot be written to.
    """
    writable_folder(folder)
    tables = {
        "scores": score_table(judged),
        "pairs": pair_table(judged),
        "texts": text_table(judged),
    }
    for name, table in tables.items():
        with finished_file(folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary)
    return TableFiles(*(folder / f"{name}.parquet" for name in tables))


def score_table(judged: Judged) -> pa.Table:
    """See the module; a failed score has no value and its reason."""
    hashes = _hashes(judged)
    rows = [
        {
            **_key(row),
            "aspect": row.aspect,
            "value": _value(row.verdict),
            "label": row.verdict.label or None,
            "best": row.best,
            "failed": row.verdict.failed,
            "answer_hash": hashes[row.prompt_id, row.arm],
        }
        for row in judged.scores
    ]
    return pa.Table.from_pylist(rows, schema=SCORES)


def pair_table(judged: Judged) -> pa.Table:
    """See the module; values are the judge's, above 0 for what it was shown first."""
    hashes = _hashes(judged)
    rows = [
        {
            **_key(row),
            "choice": row.choice,
            "candidate_first": row.outcome and _value(row.outcome.candidate_first),
            "baseline_first": row.outcome and _value(row.outcome.baseline_first),
            "failed": row.outcome and row.outcome.failed,
            "answer_hash": hashes[row.prompt_id, row.arm],
        }
        for row in judged.pairs
    ]
    return pa.Table.from_pylist(rows, schema=PAIRS)


def text_table(judged: Judged) -> pa.Table:
    """See the module."""
    said: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in judged.scores:
        said[row.prompt_id, row.arm].append(f"{row.aspect}: {row.verdict.raw}")
    for pair in judged.pairs:
        outcome = pair.outcome
        orders = (outcome.candidate_first, outcome.baseline_first) if outcome else ()
        named = zip(("candidate first", "baseline first"), orders, strict=False)
        said[pair.prompt_id, pair.arm] += [f"{order}: {v.raw}" for order, v in named if v]
    rows = [
        {
            **_key(one),
            "question": one.question,
            "answer": one.text,
            "said": said[one.prompt_id, one.arm],
        }
        for one in judged.answered
    ]
    return pa.Table.from_pylist(rows, schema=TEXTS)


@runtime_checkable
class _Keyed(Protocol):
    @property
    def prompt_id(self) -> str: ...
    @property
    def dimension(self) -> str: ...
    @property
    def arm(self) -> str: ...


def _key(row: _Keyed) -> dict[str, str]:
    return {"prompt_id": row.prompt_id, "dimension": row.dimension, "arm": row.arm}


def _value(verdict: Verdict | None) -> float | None:
    return None if verdict is None or verdict.failed else verdict.value


def _hashes(judged: Judged) -> dict[tuple[str, str], str]:
    return {(one.prompt_id, one.arm): text_hash(one.text) for one in judged.answered}
