"""The plan of an extraction: distinct prompts, sorted by length, cut into blocks.

A block is the unit of work, of retrying and of resuming. It depends on the data, the tokenizer and
the configuration and on nothing else, never on the number of workers, so that a result is the same
bits wherever it was computed. Sorting by length before cutting leaves almost every batch full.

About 30 % of the expanded rows repeat a text: each distinct prompt runs once and its rows, which
travel in the same block, are joined back to it by index.
"""

import pickle
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Int

from trimtab.core.hashing import content_hash
from trimtab.core.rows import Labels
from trimtab.models.engine import Prompt
from trimtab.scenarios.labels import labels


class Block(NamedTuple):
    """Some prompts, and the scenarios that ask them."""

    number: int
    """From 0."""
    prompts: list[Prompt]
    """Distinct prompts, shortest first."""
    prompt_of_row: Int[np.ndarray, " rows"]
    """For each scenario, its prompt in this block."""
    labels: Labels
    """The scenarios, `index` being the row of the scenario table."""
    scenario_ids: list[str]
    """Their ids."""


class Plan(NamedTuple):
    """All blocks of an extraction."""

    blocks: list[Block]
    """In order."""
    num_rows: int
    """Scenarios."""
    num_prompts: int
    """Distinct prompts."""
    num_tokens: int
    """Tokens of the distinct prompts."""
    data_hash: str
    """Content hash of the prompts and scenario ids in the table's order."""


def distinct(texts: list[str]) -> tuple[list[int], Int[np.ndarray, " rows"]]:
    """First row of each distinct text, and for each row the number of its text."""
    number: dict[str, int] = {}
    first: list[int] = []
    for row, text in enumerate(texts):
        if number.setdefault(text, len(number)) == len(first):
            first.append(row)
    return first, np.array([number[text] for text in texts], dtype=np.int64)


def plan(
    scenarios: pl.DataFrame,
    prompts: list[Prompt],
    prompt_of_row: Int[np.ndarray, " rows"],
    block_prompts: int,
) -> Plan:
    """Cuts the prompts into blocks.

    Args:
        scenarios: the table.
        prompts: its distinct prompts, tokenised, in order of first appearance.
        prompt_of_row: for each row of the table, its prompt.
        block_prompts: distinct prompts in one block.
    """
    order = np.argsort([len(prompt.tokens) for prompt in prompts], kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    rank_of_row = rank[prompt_of_row]
    everything, ids = labels(scenarios), scenarios["scenario_id"].to_list()
    blocks = []
    for number, start in enumerate(range(0, len(order), block_prompts)):
        chosen = order[start : start + block_prompts]
        rows = np.flatnonzero((rank_of_row >= start) & (rank_of_row < start + len(chosen)))
        blocks.append(
            Block(
                number=number,
                prompts=[prompts[i] for i in chosen],
                prompt_of_row=rank_of_row[rows] - start,
                labels=everything.take(rows),
                scenario_ids=[ids[row] for row in rows],
            )
        )
    return Plan(
        blocks=blocks,
        num_rows=len(ids),
        num_prompts=len(prompts),
        num_tokens=sum(len(prompt.tokens) for prompt in prompts),
        data_hash=content_hash([ids, prompt_of_row.tolist(), scenarios["action"].to_list()]),
    )


def to_tables(calls: Sequence[list[Block]]) -> list[pa.Table]:
    """One table of one row per worker's call, so that Ray Data never splits or joins them.

    Args:
        calls: the blocks of each: several where weights stream past them together, else one.
    """
    return [pa.table({"blocks": [pickle.dumps(call, protocol=5)]}) for call in calls]


def from_batch(batch: dict[str, np.ndarray]) -> list[Block]:
    """The blocks in a batch of one row."""
    assert len(batch["blocks"]) == 1, "a batch is one call"
    return pickle.loads(batch["blocks"][0])
