"""Eight trials over one store against eight runs that each extract for themselves.

The same eight autoencoders (two learning rates by four k) are trained on the same layer of the same
random model by the same code; the one side extracts the layer once and memory-maps it, the other
extracts it into a store of its own before each training. What differs is the extraction alone,
which runs in this process, without Ray's start, to the deepest layer asked for. Both sides must
end with the same weights.

The gain lies between 1 (training is all) and 8 (extraction is all), so the shares are shown too:
here a block of 512 is read at layer 5 of 8, and a coder sees each row ten times.
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extract import TOKEN_BUDGET, Size, make_model, once_each, row_prompts, train_tokenizer
from torch import Tensor

from trimtab.core.seeds import Seed
from trimtab.models.blocks import Decoder, find_decoder
from trimtab.models.engine import Engine, Prompt, Request
from trimtab.sae.coder import CoderConfig
from trimtab.sae.config import TrainConfig
from trimtab.sae.rows import stored_rows
from trimtab.sae.training import Trainer
from trimtab.scenarios.prompts import prompts as prompts_of
from trimtab.store.reader import open_store
from trimtab.store.writer import Writer
from trimtab.stream.config import CORPUS, DataConfig
from trimtab.stream.scenarios import read

LAYER = 5
TRIALS = list(itertools.product((3e-4, 1e-3), (8, 16, 32, 64)))
"""Learning rate and k."""


def compare(size: Size = Size(), width: int = 4_096, rows: int | None = None) -> dict[str, Any]:  # noqa: B008
    """Seconds of both sides, and of their parts."""
    with tempfile.TemporaryDirectory(prefix="tt-") as name:
        folder = Path(name)
        table = read(DataConfig(path=CORPUS, subset=None), folder).table.head(rows or 10**9)
        tokenizer = train_tokenizer(prompts_of(table["action"].unique(maintain_order=True)))
        decoder = find_decoder(make_model(size))
        prompts = row_prompts(table, tokenizer)
        extract(decoder, prompts[:64], folder / "warm")
        train(extract(decoder, prompts[:64], folder / "warm"), 0, width, epochs=1.0)
        shared = one_store(decoder, prompts, folder, width)
        own = own_stores(decoder, prompts, folder, width)
    different = [
        trial
        for trial, (a, b) in enumerate(zip(shared.pop("weights"), own.pop("weights"), strict=True))
        if not torch.equal(a, b)
    ]
    assert not different, f"trials {different} must end alike on both sides"
    return {
        "trials": len(TRIALS),
        "rows": len(prompts),
        "tokens": sum(len(prompt.tokens) for prompt in prompts),
        "one_store": shared,
        "own_stores": own,
        "times": own["seconds"] / shared["seconds"],
    }


def one_store(decoder: Decoder, prompts: list[Prompt], folder: Path, width: int) -> dict[str, Any]:
    start = time.perf_counter()
    path = extract(decoder, prompts, folder / "shared")
    extracted = time.perf_counter() - start
    weights = [train(path, trial, width) for trial in range(len(TRIALS))]
    return {
        "seconds": time.perf_counter() - start,
        "extraction": extracted,
        "weights": weights,
    }


def own_stores(decoder: Decoder, prompts: list[Prompt], folder: Path, width: int) -> dict[str, Any]:
    start = time.perf_counter()
    weights, extractions = [], []
    for trial in range(len(TRIALS)):
        begun = time.perf_counter()
        path = extract(decoder, prompts, folder / f"own-{trial}")
        extractions.append(time.perf_counter() - begun)
        weights.append(train(path, trial, width))
    return {
        "seconds": time.perf_counter() - start,
        "extraction": statistics.median(extractions),
        "weights": weights,
    }


def extract(decoder: Decoder, prompts: list[Prompt], root: Path) -> Path:
    """A finished store of one layer, each distinct prompt run once."""
    request = Request(layers=(LAYER,), token_budget=TOKEN_BUDGET)
    unique, of_row = once_each(prompts)
    pooled = Engine(decoder, request, torch.device("cpu")).extract(unique).pooled
    writer = Writer(root, {"rows": len(prompts)}, ("mean",))
    index, ids = np.arange(len(prompts)), [prompt.name for prompt in prompts]
    writer.write(0, "mean", {LAYER: pooled["mean", LAYER]}, of_row.numpy(), index, ids)
    return writer.finish(1, {})


def train(store: Path, trial: int, width: int, epochs: float = 10.0) -> Tensor:
    """The decoder that a trial ends with."""
    rate, k = TRIALS[trial]
    config = TrainConfig(
        coder=CoderConfig(kind="topk", width=width, k=k),
        epochs=epochs,
        batch_size=512,
        learning_rate=rate,
    )
    opened = open_store(store)
    num_rows = sum(shard.rows for shard in opened.manifest.shards)
    rows = stored_rows(opened, "mean", (LAYER,), num_rows)
    trainer = Trainer(rows, None, config, Seed(0), torch.device("cpu"))
    for _ in trainer.run():
        pass
    return trainer.saes[LAYER].W_dec.detach().clone()


def report(case: dict[str, Any]) -> list[str]:
    """The lines of the table."""
    one, own = case["one_store"], case["own_stores"]
    training = (one["seconds"] - one["extraction"]) / case["trials"]
    return [
        f"\nstore: {case['trials']} trials, {case['rows']:,} rows of {case['tokens']:,} tokens\n",
        "| side | seconds | extractions | one extraction | one training |",
        "|---|---|---|---|---|",
        f"| one store | {one['seconds']:.1f} | 1 | {one['extraction']:.2f} s | {training:.2f} s |",
        f"| a store each | {own['seconds']:.1f} | {case['trials']} | {own['extraction']:.2f} s | "
        f"{own['seconds'] / case['trials'] - own['extraction']:.2f} s |",
        f"\none store is {case['times']:.2f} x faster; the weights are the same bits",
    ]
