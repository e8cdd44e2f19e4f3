"""Extraction into an activation store: every layer of every block, once, resumable.

A worker writes each block's shard itself, so nothing but statistics travels. What is already
there is not computed again; the manifest comes last.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.data import ActorPoolStrategy

from trimtab import __version__
from trimtab.core.hashing import content_hash
from trimtab.models.engine import Request
from trimtab.models.loading import ModelCard, ModelConfig
from trimtab.store.writer import Writer
from trimtab.stream.blocks import Plan, from_batch, to_tables
from trimtab.stream.config import ExtractConfig, ExtractJob
from trimtab.stream.fold import Progress
from trimtab.stream.session import ERROR, raise_returned, returning_errors
from trimtab.stream.sources import ModelSource

EXTRACTION_VERSION = 1
"""Raised whenever the same configuration begins to give other activations."""


class Stats(NamedTuple):
    """What an extraction cost."""

    prompts: int
    """Prompts computed now; those that were there already are not counted."""
    tokens: int
    """Tokens computed now."""
    seconds: float
    """From the first block's start to the last block's end; loading the model is not in it."""
    token_budgets: list[int]
    """Budgets that fitted, of the blocks computed now; less than configured after a lack of memory."""


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
        block = from_batch(batch)
        _ = self.source.engine  # loading the model is not the block's time
        start = time.time()
        pooled, extraction = self.source.extract(block)
        self.writer.write(
            block.number,
            self.source.pooling,
            pooled,
            block.prompt_of_row,
            block.labels.index,
            block.scenario_ids,
        )
        return {
            "prompts": [len(block.prompts)],
            "tokens": [extraction.num_tokens],
            "budget": [extraction.token_budget],
            "start": [start],
            "end": [time.time()],
        }


def extract_to_store(
    plan: Plan,
    writer: Writer,
    source: ModelSource,
    job: ExtractJob,
    num_gpus: float,
    provenance: Mapping[str, Any],
    progress: Progress = lambda _: None,
) -> tuple[Path, Stats]:
    """Extracts the blocks that are missing, and finishes the store.

    Raises:
        TrimtabError: what a worker met.
    """
    missing = [block for block in plan.blocks if not writer.has(block.number)]
    progress(len(plan.blocks) - len(missing))
    rows: list[dict[str, Any]] = []
    if missing:
        dataset = ray.data.from_arrow(to_tables(missing)).map_batches(
            ExtractBlocks,
            fn_constructor_kwargs={"source": source, "writer": writer},
            compute=ActorPoolStrategy(size=job.workers.replicas),
            batch_size=1,
            num_cpus=job.workers.num_cpus,
            num_gpus=num_gpus,
        )
        for row in dataset.iter_rows():
            if ERROR in row:
                raise_returned(row[ERROR])
            rows.append(row)
            progress(len(plan.blocks) - len(missing) + len(rows))
    stats = _stats(rows)
    path = writer.finish(
        len(plan.blocks),
        {**provenance, "trimtab": __version__, "token_budgets": stats.token_budgets},
    )
    return path, stats


def _stats(rows: list[dict[str, Any]]) -> Stats:
    if not rows:
        return Stats(0, 0, 0.0, [])
    return Stats(
        prompts=sum(int(row["prompts"]) for row in rows),
        tokens=sum(int(row["tokens"]) for row in rows),
        seconds=max(row["end"] for row in rows) - min(row["start"] for row in rows),
        token_budgets=[int(row["budget"]) for row in rows],
    )


def source_for(spec: ModelConfig, request: Request, job: ExtractJob) -> ModelSource:
    """The model as a source of rows."""
    return ModelSource(spec, request, job.extract.pooling, job.extract.dtype, job.workers.threads)
