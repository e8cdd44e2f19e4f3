"""What a layer's answers look like, as files: side by side, and the largest wins and losses.

    side_by_side.parquet   prompt_id, prompt, reference, arm, baseline, answer, choice, margin
    largest.jsonl          of the best arm: ten wins and ten losses, the clearest first
    arms.parquet           a row per arm: kind, layer, alpha, and every metric
    scores.parquet, pairs.parquet, texts.parquet     see `trimtab.evaluation.tables`

Those with texts stay in the sweep's own folder unless the data is not sensitive or `log_text` says
otherwise; `shared` says which may go to the tracker.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from trimtab.core.files import finished_file, writable_folder
from trimtab.edits.arms import BASELINE
from trimtab.evaluation.judged import Judged, PairRow
from trimtab.evaluation.prompts import Question
from trimtab.evaluation.tables import write_tables
from trimtab.stream.steer_arms import Told
from trimtab.stream.steer_results import Metrics

ARMS: Final = "arms.parquet"
SIDE_BY_SIDE: Final = "side_by_side.parquet"
LARGEST: Final = "largest.jsonl"
NUM_LARGEST: Final = 10


class Files(NamedTuple):
    """What was written."""

    numbers: list[Path]
    """Ids, numbers and hashes."""
    texts: list[Path]
    """With prompts and answers."""

    def shared(self, *, sensitive: bool) -> list[Path]:
        """What may go to the tracker."""
        return self.numbers if sensitive else self.numbers + self.texts


def write_files(
    judged: Judged,
    questions: Sequence[Question],
    arms: Mapping[str, Metrics],
    told: Mapping[str, Told],
    layer: int,
    best_arm: str,
    folder: Path,
) -> Files:
    """Writes all of them.

    Args:
        arms: every arm's metrics.
        told: what each arm is.
        best_arm: whose wins and losses are shown.
        folder: the layer's own.

    Raises:
        OutputError: the folder cannot be written to.
    """
    tables = write_tables(judged, writable_folder(folder))
    rows = side_by_side(judged, questions)
    _write(folder / ARMS, arm_rows(arms, told, layer))
    _write(folder / SIDE_BY_SIDE, rows)
    shown = largest([row for row in rows if row["arm"] == best_arm])
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in shown]
    with finished_file(folder / LARGEST) as temporary:
        temporary.write_text("".join(lines), "utf-8")
    return Files(
        [folder / ARMS, tables.scores, tables.pairs],
        [tables.texts, folder / SIDE_BY_SIDE, folder / LARGEST],
    )


def copy_to(files: Sequence[Path], folder: Path) -> None:
    """Puts copies into another folder."""
    for file in files:
        shutil.copyfile(file, folder / file.name)


def arm_rows(
    arms: Mapping[str, Metrics], told: Mapping[str, Told], layer: int
) -> list[dict[str, object]]:
    """A row per arm, all with the same columns; what is unknown is None."""
    names = sorted({name for metrics in arms.values() for name in metrics})
    return [
        {
            "arm": arm,
            "kind": told[arm].kind,
            "layer": layer,
            "alpha": told[arm].alpha,
            **{name: metrics.get(name) for name in names},
        }
        for arm, metrics in arms.items()
    ]


def side_by_side(judged: Judged, questions: Sequence[Question]) -> list[dict[str, object]]:
    """Each arm's answer beside the unedited model's, with what the judge made of the two."""
    asked = {question.id: question for question in questions}
    texts = {(one.prompt_id, one.arm): one.text for one in judged.answered}
    return [
        {
            "prompt_id": row.prompt_id,
            "prompt": asked[row.prompt_id].prompt,
            "reference": asked[row.prompt_id].reference,
            "arm": row.arm,
            "baseline": texts[row.prompt_id, BASELINE.name],
            "answer": texts[row.prompt_id, row.arm],
            "choice": row.choice,
            "margin": margin(row),
        }
        for row in judged.pairs
    ]


def margin(row: PairRow) -> float | None:
    """By how much the arm's answer is better in the judge's own measure; None if it failed."""
    outcome = row.outcome
    if row.choice == "failed":
        return None
    if outcome is None:
        return float((row.choice == "win") - (row.choice == "lose"))
    if outcome.candidate_first is None:
        return -outcome.baseline_first.value
    return (outcome.candidate_first.value - outcome.baseline_first.value) / 2


def largest(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The clearest wins and the clearest losses among an arm's rows, equal ones in their order."""

    def clearness(row: dict[str, object]) -> float:
        return -abs(float(str(row["margin"])))

    wins = sorted((row for row in rows if row["choice"] == "win"), key=clearness)
    losses = sorted((row for row in rows if row["choice"] == "lose"), key=clearness)
    return wins[:NUM_LARGEST] + losses[:NUM_LARGEST]


def _write(path: Path, rows: Sequence[dict[str, object]]) -> None:
    with finished_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows)), temporary)
