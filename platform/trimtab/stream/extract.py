"""Extraction into an activation store: every layer of every block, once, resumable.

A worker writes each block's shard itself, so nothing but statistics travels. What is already
there is not computed again; the manifest comes last. Where weights stream, a worker's call is as
many blocks as its memory holds the hidden states of, so that the weights pass once for all of them;
each block keeps batches of its own, so the shards are the resident model's to the bit.
"""

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import ray
from ray.data import ActorPoolStrategy

from trimtab import __version__
from trimtab.core.hashing import content_hash
from trimtab.models.card import ModelCard, ModelConfig
from trimtab.models.engine import Request
from trimtab.models.plan import ModelPlan
from trimtab.store.writer import Writer
from trimtab.stream.blocks import Block, Plan, from_batch, to_tables
from trimtab.stream.config import ExtractConfig, ExtractJob
from trimtab.stream.fold import Progress
from trimtab.stream.session import ERROR, raise_returned, returning_errors
from trimtab.stream.sources import ModelSource

EXTRACTION_VERSION = 1
"""Raised whenever the same configuration begins to give other activations."""

SCRATCH: Final = "unfinished"
"""Folder of a store in which streaming workers keep what they would go on from."""


class Stats(NamedTuple):
    """What an extraction cost."""

    prompts: int
    """Prompts computed now; those that were there already are not counted."""
    tokens: int
    """Tokens computed now."""
    seconds: float
    """From the first block's start to the last block's end; loading the model is not in it."""
    token_budgets: list[int]
    """Budgets that fitted, of the calls computed now; less than configured after a lack of memory."""
    held: dict[str, int]
    """Bytes of weights that one worker really held, by precision; empty where nothing was loaded."""


def request_for(card: ModelCard, extract: ExtractConfig, *, has_bos: bool) -> Request:
    """What the engine is asked for, with `all` layers spelt out."""
    layers = tuple(range(card.num_layers)) if extract.layers == "all" else extract.layers
    return Request(
        layers=layers,
        poolings=(extract.pooling,),
        skip_first=extract.skip_bos and has_bos,
        token_budget=extract.token_budget,
    )


def identity_of(card: ModelCard, request: Request, plan: Plan, job: ExtractJob) -> dict[str, Any]:
    """All that decides the activations, as the store's identity."""
    return {
        "version": EXTRACTION_VERSION,
        "model": card.identity,
        "data": plan.data_hash,
        "prompts": content_hash([p.tokens for block in plan.blocks for p in block.prompts]),
        "request": request.model_dump(mode="json"),
        "block_prompts": job.extract.block_prompts,
        "dtype": job.extract.dtype,
        "threads": job.workers.threads,
    }


class ExtractBlocks:
    """Writes the shards of the blocks it is given, in a worker."""

    def __init__(self, source: ModelSource, writer: Writer) -> None:
        self.source, self.writer = source, writer

    @returning_errors
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """One row of statistics."""
        blocks = from_batch(batch)
        _ = self.source.engine  # loading the model is not the blocks' time
        start = time.time()
        scratch = self.writer.path / SCRATCH / f"{blocks[0].number:05d}"
        computed = self.source.extract(blocks, scratch if self.source.streams else None)
        for block, pooled in zip(blocks, computed.rows, strict=True):
            self.writer.write(
                block.number,
                self.source.pooling,
                pooled,
                block.prompt_of_row,
                block.labels.index,
                block.scenario_ids,
            )
        return {
            "blocks": [len(blocks)],
            "prompts": [sum(len(block.prompts) for block in blocks)],
            "tokens": [computed.num_tokens],
            "budget": [computed.token_budget],
            "held": [json.dumps(self.source.held)],
            "start": [start],
            "end": [time.time()],
        }


def extract_to_store(
    plan: Plan,
    writer: Writer,
    source: ModelSource,
    job: ExtractJob,
    provenance: Mapping[str, Any],
    progress: Progress = lambda _: None,
) -> tuple[Path, Stats]:
    """Extracts the blocks that are missing, and finishes the store.

    Raises:
        TrimtabError: what a worker met.
    """
    calls = calls_of(plan.blocks, source.placement, job)
    missing = [call for call in calls if not all(writer.has(block.number) for block in call)]
    done = len(plan.blocks) - sum(map(len, missing))
    progress(done)
    rows: list[dict[str, Any]] = []
    if missing:
        dataset = ray.data.from_arrow(to_tables(missing)).map_batches(
            ExtractBlocks,
            fn_constructor_kwargs={"source": source, "writer": writer},
            compute=ActorPoolStrategy(size=replicas(source.placement, job)),
            batch_size=1,
            num_cpus=job.workers.num_cpus,
            num_gpus=source.placement.gpus_per_replica,
        )
        for row in dataset.iter_rows():
            if ERROR in row:
                raise_returned(row[ERROR])
            rows.append(row)
            done += int(row["blocks"])
            progress(done)
    stats = _stats(rows)
    path = writer.finish(
        len(plan.blocks),
        {
            **provenance,
            "trimtab": __version__,
            "token_budgets": stats.token_budgets,
            "block_source": source.placement.source,
            "held_bytes": stats.held,
        },
    )
    shutil.rmtree(writer.path / SCRATCH, ignore_errors=True)
    return path, stats


def calls_of(blocks: list[Block], placement: ModelPlan, job: ExtractJob) -> list[list[Block]]:
    """The blocks of each worker's call.

    One, where the model is resident. Where its weights stream, as many as the plan holds hidden
    states of, but not so many that a replica has none. Cut alike at every start of the same job on
    the same machine, so that an interrupted call is taken up again.
    """
    if placement.source == "resident":
        return [[block] for block in blocks]
    most = math.ceil(len(blocks) / replicas(placement, job))
    calls: list[list[Block]] = []
    room = 0
    for block in blocks:
        if not calls or len(block.prompts) > room or len(calls[-1]) == most:
            calls.append([])
            room = placement.block_prompts
        calls[-1].append(block)
        room -= len(block.prompts)
    return calls


def replicas(placement: ModelPlan, job: ExtractJob) -> int:
    """Copies of the model side by side: what the job says, else what the plan says."""
    return job.workers.replicas or placement.replicas


def _stats(rows: list[dict[str, Any]]) -> Stats:
    if not rows:
        return Stats(0, 0, 0.0, [], {})
    return Stats(
        prompts=sum(int(row["prompts"]) for row in rows),
        tokens=sum(int(row["tokens"]) for row in rows),
        seconds=max(row["end"] for row in rows) - min(row["start"] for row in rows),
        token_budgets=[int(row["budget"]) for row in rows],
        held=json.loads(rows[0]["held"]),
    )


def source_for(
    spec: ModelConfig, request: Request, job: ExtractJob, placement: ModelPlan
) -> ModelSource:
    """The model as a source of rows."""
    extract, threads = job.extract, job.workers.threads
    spec = spec.given(placement.gpus_per_replica)
    return ModelSource(spec, request, extract.pooling, extract.dtype, threads, placement)
