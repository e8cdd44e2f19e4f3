"""Prompts x arms on Ray: the batches of the plan through a pool of models, each answer kept once.

The driver reads no weight: it tokenises, checks every arm, cuts the batches and drops those whose
answers are there. A worker loads the model once, decodes a batch, and writes its part itself; only
counts travel. A batch is one row and one call, so Ray neither splits nor joins it, and what is
retried after a worker was lost is a batch.

Decoding fills a card with keys and values, so a replica has whole cards, never a share. A model that
fits no node whole cannot be decoded here: its weights would stream once a token.

Not for use inside a Tune trial, which calls `evaluation.answers` with the model that it holds.
"""

import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch
from pydantic import Field, PositiveInt
from ray.data import ActorPoolStrategy

from trimtab.core.config import Config
from trimtab.edits.arms import Arm, Materials
from trimtab.evaluation.answer_store import Answer, AnswerStore
from trimtab.evaluation.answers import Batch, Speaker, ask, batches, described
from trimtab.evaluation.decoding import DecodingConfig, warn_of_length
from trimtab.evaluation.prompts import Question
from trimtab.models.allocator import keep_freed_memory
from trimtab.models.card import ModelConfig
from trimtab.models.configs import config_of
from trimtab.models.cost import Work
from trimtab.models.hardware import Machine
from trimtab.models.loading import describe, load
from trimtab.models.plan import ModelPlan, place
from trimtab.models.weights import weigh
from trimtab.stream.config import WorkerConfig
from trimtab.stream.machine import known_machine
from trimtab.stream.session import ERROR, raise_returned, ray_session, returning_errors


class AnswerConfig(Config):
    """How answers are made, the same for all arms."""

    decoding: DecodingConfig = Field(default_factory=DecodingConfig)
    """Template and sampling."""
    rows: PositiveInt = 64
    """Most answers that are decoded together. Up to about 180 a GPU's step costs nearly the same."""
    workers: WorkerConfig = Field(default_factory=WorkerConfig)
    """What each copy of the model gets."""


class Answered(NamedTuple):
    """What a run gave."""

    answers: list[Answer]
    """All that was asked, question by question, arm by arm."""
    made: int
    """Answers decoded now; the others were there."""
    tokens: int
    """Tokens decoded now."""
    seconds: float
    """From the first batch's start to the last one's end; loading the model is not in it."""


def answer_stream(
    spec: ModelConfig,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    materials: Materials,
    config: AnswerConfig,
    folder: Path,
    report: Callable[[int, int], None] = lambda *_: None,
) -> Answered:
    """Answers every question under every arm, as far as the folder does not have it yet.

    Args:
        spec: the model.
        materials: what the arms refer to, on the host.
        folder: of the answers; on a cluster one that all nodes share.
        report: told (answers there, answers in all).

    Raises:
        TrimtabError: an arm, prompt or model that does not do, or what a worker met.
    """
    card, tokenizer = describe(spec)
    asked = ask(described(card, tokenizer), questions, arms, materials, config.decoding)
    store = AnswerStore(folder.resolve())
    done = store.keys()
    cut = [[one for one in batch if one.key not in done] for batch in batches(asked, config.rows)]
    missing = [batch for batch in cut if batch]
    report(len(asked) - sum(map(len, missing)), len(asked))
    rows: list[dict[str, Any]] = []
    if missing:
        prompts = {one.question.id: one.tokens for batch in missing for one in batch}
        warn_of_length(list(prompts.values()), config.decoding, card.context)
        with known_machine() as machine:
            plan = placement_for(spec, missing, materials, config, machine)
            with ray_session():
                there = len(asked) - sum(map(len, missing))
                for row in _run(missing, spec, materials, config, store.folder, plan):
                    rows.append(row)
                    there += int(row["answers"])
                    report(there, len(asked))
    return Answered(
        store.read(one.key for one in asked),
        sum(int(row["answers"]) for row in rows),
        sum(int(row["tokens"]) for row in rows),
        max((row["end"] for row in rows), default=0.0)
        - min((row["start"] for row in rows), default=0.0),
    )


def placement_for(
    spec: ModelConfig,
    todo: Sequence[Batch],
    materials: Materials,
    config: AnswerConfig,
    machine: Machine,
) -> ModelPlan:
    """How the model runs, its coders beside it: whole on whole cards, as many copies as shorten
    the run.

    Raises:
        ModelError: it does not fit.
    """
    longest = max(len(batch[0].tokens) for batch in todo) + config.decoding.max_new_tokens
    answers = sum(map(len, todo))
    weights = weigh(config_of(spec), spec.dtype)
    work = Work(
        prompts=answers,
        tokens=answers * longest,
        rows=answers,
        token_budget=config.rows * longest,
        block_prompts=config.rows,
        longest=longest,
        beside=materials.size * (4 if weights.published == "float32" else 2),
    )

    def placed(num_gpus: float | None) -> ModelPlan:
        return place(
            weights,
            work,
            machine,
            precision=spec.precision,
            source="resident",
            num_gpus=num_gpus,
            name=spec.label,
        )

    plan = placed(0.0 if spec.device == "cpu" else spec.num_gpus)
    whole = math.ceil(plan.gpus_per_replica)
    return plan if whole == plan.gpus_per_replica else placed(float(whole))


def _run(
    todo: Sequence[Batch],
    spec: ModelConfig,
    materials: Materials,
    config: AnswerConfig,
    folder: Path,
    plan: ModelPlan,
) -> Iterator[dict[str, Any]]:
    tables = [pa.table({"asked": [pickle.dumps(batch, protocol=5)]}) for batch in todo]
    dataset = ray.data.from_arrow(tables).map_batches(
        AnswerBatches,
        fn_constructor_kwargs={
            "spec": spec.given(plan.gpus_per_replica),
            "materials": [ray.put(materials)],  # in a list, so that it is not fetched on the way
            "config": config,
            "folder": folder,
        },
        compute=ActorPoolStrategy(size=min(len(todo), config.workers.replicas or plan.replicas)),
        batch_size=1,
        num_cpus=config.workers.num_cpus,
        num_gpus=plan.gpus_per_replica,
    )
    for row in dataset.iter_rows():
        if ERROR in row:
            raise_returned(row[ERROR])
        yield row


class AnswerBatches:
    """Decodes the batches it is given and writes their answers, in a worker."""

    def __init__(
        self,
        spec: ModelConfig,
        materials: list[ray.ObjectRef[Any]],
        config: AnswerConfig,
        folder: Path,
    ) -> None:
        self.spec, self.materials, self.config = spec, materials, config
        self.store = AnswerStore(folder)
        self._speaker: Speaker | None = None

    @property
    def speaker(self) -> Speaker:
        """The model, which is loaded at the first call."""
        if self._speaker is None:
            torch.set_num_threads(self.config.workers.threads)
            keep_freed_memory()
            loaded = load(self.spec)
            kept: Materials = ray.get(self.materials[0])
            here = kept.to(loaded.decoder.device, loaded.model.dtype)
            self._speaker = Speaker(loaded, here, self.config.decoding)
        return self._speaker

    @returning_errors
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """One row of counts."""
        asked: Batch = pickle.loads(batch["asked"][0])
        keys = [one.key for one in asked]
        speaker = self.speaker  # loading the model is not the batch's time
        start, answers = time.time(), []
        if not self.store.has_part(keys):  # a call that was taken for lost may have been finished
            answers = speaker.answer(asked)
            self.store.write(answers)
        return {
            "answers": [len(asked)],
            "tokens": [sum(len(answer.tokens) for answer in answers)],
            "start": [start],
            "end": [time.time()],
        }
