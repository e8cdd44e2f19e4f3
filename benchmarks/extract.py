"""How fast the extraction engine is: beside what everybody writes first, and beside what is possible.

Sides, timed in turn on the same rows in float32 (median over alternating rounds):

- engine: `trimtab.models.engine`, exact-length batches, each distinct prompt once, every layer
  mean-pooled
- padded: `AutoModelForCausalLM`, batches of 32 in file order, `output_hidden_states`, masked means
- headless: the same loop without the language-model head, which tells padding's cost from the head's
- bound: the bare blocks on the engine's batches, embedded beforehand, nothing captured

Three cases: the data's short prompts; the same engine behind Ray Data (one actor, one thread on
both sides, the store written); and long texts of one length, where padding costs nothing. The model
is a random `qwen3` (8 layers, d = 512, 151,936 tokens, tied); the tokenizer a byte-level BPE of
8,192 tokens trained on the prompts, so that lengths are about what a real one gives. What comes of
running each prompt once, and what of the engine itself, is printed apart.

A full run on two idle cores takes about half an hour, most of it in the padded loop, and 4 GB.
On a busy machine the two threads wait for each other and the numbers mean nothing. Quick look:

    python benchmarks/extract.py --rounds 1 --rows 400 --stream-rows 2000
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import polars as pl
import ray
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from trimtab.models.allocator import keep_freed_memory
from trimtab.models.batching import plan_batches
from trimtab.models.blocks import Decoder, find_decoder
from trimtab.models.card import ModelConfig
from trimtab.models.engine import Engine, Prompt, Request
from trimtab.models.loading import describe, load
from trimtab.scenarios.prompts import prompts as prompts_of
from trimtab.store.layout import checksum_path, shard_path
from trimtab.store.writer import Writer
from trimtab.stream.blocks import distinct
from trimtab.stream.config import CORPUS, DataConfig, ExtractConfig, ExtractJob, WorkerConfig
from trimtab.stream.extract import extract_to_store, identity_of, request_for, source_for
from trimtab.stream.machine import known_machine
from trimtab.stream.publish import git_commit
from trimtab.stream.scenarios import plan_for, read
from trimtab.stream.session import ray_session
from trimtab.stream.tasks import placement_for

PADDED_BATCH = 32
TOKEN_BUDGET = 1_024
BLOCK_PROMPTS = 512
LONG_PROMPTS, LONG_TOKENS = 64, 128


class Size(NamedTuple):
    """What the random model is."""

    layers: int = 8
    width: int = 512
    vocabulary: int = 151_936


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for every side; without it page faults blur a tenth of each
    with tempfile.TemporaryDirectory(prefix="tt-") as folder:
        table = read(DataConfig(path=options.data, subset=None), Path(folder)).table
        tokenizer = train_tokenizer(prompts_of(table["action"].unique(maintain_order=True)))
        model = make_model(Size())
        found: dict[str, Any] = {"machine": machine(options)}
        for name in options.cases:
            if name == "short":
                short = row_prompts(table.head(options.rows), tokenizer)
                found[name] = compare(model, short, options.rounds)
            elif name == "long":
                found[name] = compare(model, long_prompts(len(tokenizer)), options.rounds)
            else:
                torch.set_num_threads(1)
                save(model, tokenizer, Path(folder) / "model")
                rows = table.head(options.stream_rows)
                found[name] = through_ray(Path(folder) / "model", rows, Path(folder))
                torch.set_num_threads(options.threads)
    print(json.dumps(found, indent=2) if options.json else "\n".join(report(found)))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default=CORPUS, help="a Social-Chemistry-101 TSV")
    parser.add_argument("--rows", type=int, default=4_000, help="rows of the short case")
    parser.add_argument("--stream-rows", type=int, default=16_000, help="rows through Ray")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    choices = ["short", "long", "ray"]
    parser.add_argument("--cases", nargs="+", default=choices, choices=choices)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    return parser.parse_args()


def make_model(size: Size) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=3 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 64,
        num_key_value_heads=size.width // 128,
        head_dim=64,
        max_position_embeddings=1_024,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8_192,
        show_progress=False,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


def row_prompts(table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The prompt of every row of a table, in file order, repeats included."""
    encoded = tokenizer(prompts_of(table["action"]))["input_ids"]
    return [Prompt(ids, str(i)) for i, ids in enumerate(encoded)]


def once_each(prompts: list[Prompt]) -> tuple[list[Prompt], Tensor]:
    """The distinct prompts, and for each row which one is its own."""
    first, of_row = distinct([str(prompt.tokens) for prompt in prompts])
    return [prompts[i] for i in first], torch.from_numpy(of_row)


def long_prompts(vocabulary: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, vocabulary, (LONG_PROMPTS, LONG_TOKENS), generator=generator)
    return [Prompt(row.tolist(), str(i)) for i, row in enumerate(tokens)]


def run_engine(decoder: Decoder, prompts: list[Prompt]) -> list[Tensor]:
    """Mean-pooled outputs of every layer, one row per prompt, each distinct one run once."""
    request = Request(layers=tuple(range(decoder.num_layers)), token_budget=TOKEN_BUDGET)
    unique, of_row = once_each(prompts)
    pooled = Engine(decoder, request, torch.device("cpu")).extract(unique).pooled
    return [pooled["mean", layer][of_row] for layer in request.layers]


@torch.inference_mode()
def run_padded(model: torch.nn.Module, prompts: list[Prompt]) -> list[Tensor]:
    """Mean-pooled hidden states, of which transformers gives the last one normalised."""
    batches = []
    for start in range(0, len(prompts), PADDED_BATCH):
        rows = [torch.tensor(p.tokens) for p in prompts[start : start + PADDED_BATCH]]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        output = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
        states = output.hidden_states[1:]
        batches.append([(h * mask[..., None]).sum(1) / lengths[:, None] for h in states])
    return [torch.cat(layer) for layer in zip(*batches, strict=True)]


@torch.inference_mode()
def prepare_bound(decoder: Decoder, prompts: list[Prompt]) -> Callable[[], list[Tensor]]:
    """Embeds the engine's batches; the function returned runs the blocks over them, no more."""
    unique, _ = once_each(prompts)
    batches = plan_batches([len(prompt.tokens) for prompt in unique], TOKEN_BUDGET)
    starts = [
        decoder.start(torch.tensor([unique[i].tokens for i in batch.which])) for batch in batches
    ]

    @torch.inference_mode()
    def run() -> list[Tensor]:
        hidden = [start.hidden for start in starts]
        for layer, block in enumerate(decoder.blocks(decoder.num_layers - 1)):
            for i, start in enumerate(starts):
                call = start.calls[layer]
                hidden[i] = block(hidden[i], *call.args, **call.kwargs)
        return hidden

    return run


def compare(model: PreTrainedModel, prompts: list[Prompt], rounds: int) -> dict[str, Any]:
    """Times all sides in turn, in one order and then the other."""
    decoder = find_decoder(model)
    sides: dict[str, Callable[[], list[Tensor]]] = {
        "engine": lambda: run_engine(decoder, prompts),
        "padded": lambda: run_padded(model, prompts),
        "headless": lambda: run_padded(decoder.module, prompts),
        "bound": prepare_bound(decoder, prompts),
    }
    warm = prompts[: 2 * PADDED_BATCH]
    run_engine(decoder, warm)
    run_padded(model, warm)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(sides):
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    unique, _ = once_each(prompts)
    return {
        "rows": len(prompts),
        "row_tokens": sum(len(prompt.tokens) for prompt in prompts),
        "prompts": len(unique),
        "tokens": sum(len(prompt.tokens) for prompt in unique),
        "padded_tokens": padded_tokens(prompts),
        "seconds": median,
        "rounds": seconds,
        "engine_over_padded": median["padded"] / median["engine"],
        "engine_over_headless": median["headless"] / median["engine"],
        "share_of_bound": median["bound"] / median["engine"],
        "largest_difference": largest_difference(decoder, prompts[: 4 * PADDED_BATCH]),
    }


def padded_tokens(prompts: list[Prompt]) -> int:
    lengths = [len(prompt.tokens) for prompt in prompts]
    chunks = [lengths[i : i + PADDED_BATCH] for i in range(0, len(lengths), PADDED_BATCH)]
    return sum(len(chunk) * max(chunk) for chunk in chunks)


def largest_difference(decoder: Decoder, prompts: list[Prompt]) -> float:
    """Between engine and padded loop, over all layers but the last, which the latter normalises."""
    pairs = zip(run_engine(decoder, prompts), run_padded(decoder.module, prompts), strict=True)
    return max(float((ours - theirs).abs().max()) for ours, theirs in list(pairs)[:-1])


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def through_ray(
    folder: Path, table: pl.DataFrame, out: Path, block_prompts: int = BLOCK_PROMPTS
) -> dict[str, Any]:
    """The same blocks in this process and in one actor, one thread each.

    The clock runs from the end of the first block, in which the actor loads the model, to the end
    of the last one.
    """
    extract = ExtractConfig(token_budget=TOKEN_BUDGET, block_prompts=block_prompts)
    job = ExtractJob(extract=extract, workers=WorkerConfig(threads=1), out=out)
    spec = ModelConfig(id=str(folder), device="cpu")
    card, tokenizer = describe(spec)
    plan = plan_for(table, tokenizer, job.data.prompt, extract)
    request = request_for(card, extract, has_bos=False)
    engine = Engine(load(spec).decoder, request, torch.device("cpu"))
    engine.extract(plan.blocks[0].prompts)
    start = time.perf_counter()
    for block in plan.blocks[1:]:
        engine.extract(block.prompts)
    in_process = time.perf_counter() - start
    writer = Writer(out / "activations", identity_of(card, request, plan, job), ("mean",))
    start = time.perf_counter()
    with known_machine() as here, ray_session():
        placement = placement_for(spec, request, plan, job, here)
        source = source_for(spec, request, job, placement)
        path, _ = extract_to_store(plan, writer, source, job, {})
    whole = time.perf_counter() - start
    ends = [block_end(path, block.number) for block in plan.blocks]
    return {
        "rows": plan.num_rows,
        "prompts": plan.num_prompts,
        "tokens": plan.num_tokens,
        "blocks": len(plan.blocks),
        "timed_rows": sum(len(block.labels) for block in plan.blocks[1:]),
        "seconds": {"in_process": in_process, "ray": ends[-1] - ends[0], "ray_whole": whole},
        "ray_over_in_process": in_process / (ends[-1] - ends[0]),
    }


def block_end(store: Path, block: int) -> float:
    """When a worker finished a block: its checksum is written last."""
    return checksum_path(shard_path(store, "mean", block)).stat().st_mtime


def machine(options: argparse.Namespace) -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "ray": cast(str, ray.__version__),
        "commit": git_commit(),
        "data": Path(options.data).name,
        "rounds": options.rounds,
    }


def report(found: dict[str, Any]) -> Iterator[str]:
    """The lines of a report."""
    yield ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    for name in ("short", "long"):
        if name in found:
            yield from report_case(name, found[name])
    if "ray" in found:
        yield from report_ray(found["ray"])


def report_case(name: str, case: dict[str, Any]) -> Iterator[str]:
    rows, tokens = case["rows"], case["row_tokens"]
    repeats = tokens / case["tokens"]
    yield f"\n{name}: {rows:,} rows of {tokens:,} tokens, {case['prompts']:,} distinct prompts of {case['tokens']:,}"
    yield f"  the padded loop pads to {case['padded_tokens']:,} tokens ({case['padded_tokens'] / tokens:.2f} x)"
    for side, seconds in case["seconds"].items():
        yield f"  {side:9} {seconds:7.2f} s {rows / seconds:8,.0f} rows/s {tokens / seconds:9,.0f} tokens/s"
    over_padded = case["engine_over_padded"]
    yield f"  engine / padded {over_padded:.2f} x, engine / headless {case['engine_over_headless']:.2f} x"
    yield f"  of which running each prompt once gives {repeats:.2f} x, the engine itself {over_padded / repeats:.2f} x"
    yield f"  share of the bound {case['share_of_bound']:.3f}"
    yield f"  largest difference {case['largest_difference']:.1e}"


def report_ray(case: dict[str, Any]) -> Iterator[str]:
    yield f"\nray: {case['rows']:,} rows, {case['prompts']:,} prompts, {case['tokens']:,} tokens in {case['blocks']} blocks"
    for side in ("in_process", "ray"):
        seconds = case["seconds"][side]
        yield f"  {side:10} {seconds:7.2f} s {case['timed_rows'] / seconds:8,.0f} rows/s, first block left out"
    yield f"  ray / in process {case['ray_over_in_process']:.3f}"
    yield f"  whole run through Ray, its start and the model's loading included: {case['seconds']['ray_whole']:.1f} s"


if __name__ == "__main__":
    main()
