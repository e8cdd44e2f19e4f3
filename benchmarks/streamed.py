"""Weights that stream beside weights that are loaded: time, memory, bytes read, the same bits.

Each side runs in a fresh process with one compute thread (the reading thread is apart), on the same
random prompts of about 12 tokens, all layers mean-pooled:

- resident: `from_pretrained`, every weight in memory of its own, loading not timed
- streamed: `open_streamed`, the page cache warm
- cold: the same after the files were dropped from the page cache
- limited: the same under RLIMIT_DATA = bound + what the imports take, plus 10 %
- offload: accelerate's `device_map` with every block on the disk, a few batches only, since it reads
  every block for every batch

Time runs from the moment the first block is asked for to the end of the last one, the first read
included; beside it the compute thread's own CPU time, which a busy machine moves less. Memory is
RssAnon above its value after the imports, sampled every 5 ms from outside; the bound is two blocks
+ hidden states + 0.5 GB. Sides alternate, medians are given.

The checkpoint comes from `checkpoint.py` (20 layers, 6.3 GB) and is written if it is not there. A
full run on two idle cores takes about an hour; `--layers 3 --rounds 1` is a quick look:

    python benchmarks/streamed.py FOLDER --layers 3 --rounds 1
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from checkpoint import shape, write
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from trimtab.models.batching import plan_batches
from trimtab.models.blocks import BlockSource, Decoder, Start, find_decoder
from trimtab.models.card import ModelConfig
from trimtab.models.engine import Engine, Prompt, Request
from trimtab.models.loading import load
from trimtab.models.shards import checkpoint_files, read_headers
from trimtab.models.skeleton import build_skeleton
from trimtab.models.streamed import open_streamed

SIDES = ("resident", "streamed", "cold", "limited", "offload")
TOKEN_BUDGET = 256
"""Tokens in a batch, on every side. 1,024 is a quarter faster, but there oneDNN's cache of compiled
shapes (64 experts see any number of rows) and the holes it leaves in the heap take 0.6 GB."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
"""Of every side. oneDNN keeps 1,024 compiled shapes, each with its own mapping, which RLIMIT_DATA
counts in full; 128 cost no time that could be measured at this token budget."""
SLACK = 500_000_000
"""Bytes that computing may take beside two blocks and the hidden states."""
CPU = torch.device("cpu")


class Timed:
    """A block source that notes when its first block was asked for and its last one was done."""

    def __init__(self, inner: BlockSource) -> None:
        self.inner, self.seconds, self.cpu_seconds = inner, 0.0, 0.0
        self.num_layers, self.d_model = inner.num_layers, inner.d_model

    def start(self, tokens: torch.Tensor) -> Start:
        """Not timed."""
        return self.inner.start(tokens)

    def blocks(self, deepest: int, first: int = 0) -> Generator[nn.Module, None, None]:
        """Timed as a whole."""
        start, cpu = time.perf_counter(), time.thread_time()
        yield from self.inner.blocks(deepest, first)
        self.seconds, self.cpu_seconds = time.perf_counter() - start, time.thread_time() - cpu


def main() -> None:
    options = parse_options()
    if options.side:
        print(json.dumps(run_side(options)))
        return
    write(options.folder, shape(20))
    found = compare(options)
    print(json.dumps(found, indent=2) if options.json else "\n".join(report(found)))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the checkpoint; written if it is not there")
    parser.add_argument("--layers", type=int, default=20, help="blocks to run")
    parser.add_argument("--tokens", type=int, default=20_000, help="at least so many")
    parser.add_argument("--token-budget", type=int, default=TOKEN_BUDGET)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--offload-batches", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def prompts_of(num_tokens: int, vocabulary: int) -> list[Prompt]:
    """Random prompts of 6 to 18 tokens, so many tokens in all."""
    generator = np.random.default_rng(0)
    prompts: list[Prompt] = []
    while num_tokens > 0:
        length = int(generator.integers(6, 19))
        prompts.append(
            Prompt(generator.integers(2, vocabulary, size=length).tolist(), str(len(prompts)))
        )
        num_tokens -= length
    return prompts


def run_side(options: argparse.Namespace) -> dict[str, Any]:
    """What a fresh process does: one side, once."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"imports": status()}
    config = AutoConfig.from_pretrained(options.folder)
    prompts = prompts_of(options.tokens, config.vocab_size)
    request = Request(layers=tuple(range(options.layers)), token_budget=options.token_budget)
    found |= limits(options, prompts)
    if options.side == "offload":
        return found | run_offload(options, prompts)
    if options.side == "limited":
        most = int(1.1 * (found["bound"] + found["imports"]["VmData"]))
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        found["limit"] = most
    source = resident(options.folder) if options.side == "resident" else streamed(options.folder)
    warm_up(source)
    timed, read = Timed(source), getattr(source, "bytes_read", 0)
    engine = Engine(timed, request, CPU)
    before, start = system_reads(), time.perf_counter()
    extraction = engine.extract(prompts)
    return found | {
        "seconds": timed.seconds,
        "cpu_seconds": timed.cpu_seconds,
        "seconds_with_embedding": time.perf_counter() - start,
        "seconds_waited": getattr(source, "seconds_waited", 0.0),
        "bytes_read": getattr(source, "bytes_read", 0) - read,
        "system_reads": system_reads() - before,
        "tokens": extraction.num_tokens,
        "token_budget": extraction.token_budget,
        "digest": digest(extraction.pooled),
    }


def warm_up(source: BlockSource) -> None:
    """Two tokens through the first block, so that no side pays for what PyTorch does once."""
    Engine(source, Request(layers=(0,)), CPU).extract([Prompt([2, 3], "warm")])


def resident(folder: Path) -> Decoder:
    model = load(ModelConfig(id=str(folder), device="cpu")).model
    for parameter in model.parameters():  # else views of the mapped file, which are not aligned
        parameter.data = parameter.data.clone()
    return find_decoder(model)


def streamed(folder: Path) -> BlockSource:
    return open_streamed(ModelConfig(id=str(folder), device="cpu"))


def limits(options: argparse.Namespace, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The memory bound, and the bytes that have to be read, from the headers."""
    config = AutoConfig.from_pretrained(options.folder)
    stored = read_headers(checkpoint_files(str(options.folder)))
    skeleton = build_skeleton(config, torch.bfloat16, stored)
    blocks = [sum(w.nbytes for w in block) for block in skeleton.blocks]
    states = sum(len(p.tokens) for p in prompts) * config.hidden_size * 2
    embedding = stored["model.embed_tokens.weight"].nbytes
    return {
        "block": max(blocks),
        "states": states,
        "bound": 2 * max(blocks) + states + SLACK,
        "to_read": embedding + sum(blocks[: options.layers]),
        "checkpoint": sum(x.nbytes for x in stored.values()),
    }


@torch.inference_mode()
def run_offload(options: argparse.Namespace, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Batch by batch through a model whose blocks accelerate fetches from the disk."""
    config = AutoConfig.from_pretrained(options.folder)
    on_disk = {f"model.layers.{i}": "disk" for i in range(config.num_hidden_layers)}
    beside = dict.fromkeys(
        ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu"
    )
    batches = plan_batches([len(p.tokens) for p in prompts], options.token_budget)
    with tempfile.TemporaryDirectory(prefix="tt-", dir=options.folder.parent) as offloaded:
        start = time.perf_counter()
        model: Any = AutoModelForCausalLM.from_pretrained(
            options.folder,
            dtype=torch.bfloat16,
            device_map=beside | on_disk,
            offload_folder=offloaded,
        )
        loaded = time.perf_counter() - start
        written = sum(path.stat().st_size for path in Path(offloaded).rglob("*") if path.is_file())
        tokens, start = 0, time.perf_counter()
        for batch in batches[len(batches) // 2 :][: options.offload_batches]:
            ids = torch.tensor([prompts[i].tokens for i in batch.which])
            model.model(input_ids=ids, use_cache=False)
            tokens += ids.numel()
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "tokens": tokens,
        "batches": len(batches),
        "batches_run": options.offload_batches,
        "loading": loaded,
        "written": written,
        "estimated_read": len(batches) * block_bytes(options.folder),
    }


def block_bytes(folder: Path) -> int:
    """All blocks of a checkpoint."""
    stored = read_headers(checkpoint_files(str(folder)))
    return sum(x.nbytes for key, x in stored.items() if ".layers." in key)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Every side in a process of its own; resident and streamed in turn."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    repeated = [side for side in ("resident", "streamed") if side in runs]
    for number in range(options.rounds):
        for side in repeated if number % 2 == 0 else reversed(repeated):
            runs[side].append(child(options, side))
    for side in ("cold", "limited", "offload"):
        if side in runs:
            runs[side].append(child(options, side))
    return {"machine": machine(), "options": plain(options), "runs": runs}


def child(options: argparse.Namespace, side: str) -> dict[str, Any]:
    """Runs a side and watches its memory from outside."""
    for file in sorted(options.folder.glob("*.safetensors")):
        drop(file) if side == "cold" else warm(file)
    command = [sys.executable, __file__, str(options.folder), "--side", side]
    for name in ("layers", "tokens", "token_budget", "offload_batches"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    environment = os.environ | ENVIRONMENT
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        peak = watch(process)
        assert process.stdout is not None, "piped"
        output = process.stdout.read()
    if process.returncode:
        return {"failed": process.returncode}
    found = json.loads(output.splitlines()[-1])
    return found | {"peak": peak - found["imports"]["RssAnon"], "load": os.getloadavg()[0]}


def watch(process: subprocess.Popen[bytes]) -> int:
    """The most anonymous memory that a process has had when it ends."""
    peak, path = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        peak = max(peak, status(path).get("RssAnon", 0))
        time.sleep(0.005)
    return peak


def status(path: Path = Path("/proc/self/status")) -> dict[str, int]:
    """Bytes by name of what the kernel says of a process's memory."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}


def system_reads() -> int:
    """Bytes that this process has asked the kernel for with read calls."""
    lines = Path("/proc/self/io").read_text("utf-8").splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def warm(file: Path) -> None:
    with file.open("rb") as opened:
        while opened.read(1 << 24):
            pass


def drop(file: Path) -> None:
    """Out of the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def digest(pooled: dict[tuple[str, int], torch.Tensor]) -> str:
    found = hashlib.sha256()
    for key in sorted(pooled):
        found.update(pooled[key].numpy().tobytes())
    return found.hexdigest()[:16]


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "disk_free": shutil.disk_usage("/").free,
    }


def plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("layers", "tokens", "token_budget", "rounds")}


def report(found: dict[str, Any]) -> Iterator[str]:
    """The lines of a report."""
    yield ", ".join(
        f"{key} {value}" for key, value in (found["machine"] | found["options"]).items()
    )
    runs = found["runs"]
    yield f"{'side':9} {'seconds':>8} {'cpu s':>7} {'tokens/s':>9} {'waited':>7} {'peak GB':>8} {'read GB':>8} {'load':>5}"
    for side, rounds in runs.items():
        yield from (line(side, one) for one in rounds)
    for clock in ("seconds", "cpu_seconds"):
        times = [
            statistics.median(one[clock] for one in runs[side] if clock in one)
            for side in ("streamed", "resident")
            if any(clock in one for one in runs.get(side, ()))
        ]
        if len(times) == 2:
            yield f"streamed / resident, medians of {clock}: {times[0] / times[1]:.3f}"
    digests = {one["digest"] for rounds in runs.values() for one in rounds if "digest" in one}
    yield f"the same bits on every side: {len(digests) == 1} ({', '.join(sorted(digests))})"
    for one in runs.get("streamed", ())[:1]:
        yield (
            f"bound {one['bound'] / 1e9:.3f} GB = 2 x {one['block'] / 1e9:.3f} + "
            f"{one['states'] / 1e9:.3f} + {SLACK / 1e9:.1f}; peak {one['peak'] / 1e9:.3f} GB"
        )
        yield f"to read {one['to_read']:,} bytes; read {one['bytes_read']:,}"
    for one in runs.get("limited", ()):
        yield (
            f"RLIMIT_DATA {one['limit'] / 1e9:.3f} GB: finished"
            if "limit" in one
            else f"limited: {one}"
        )
    for one in runs.get("offload", ()):
        yield from offload_lines(one)


def line(side: str, one: dict[str, Any]) -> str:
    if "failed" in one:
        return f"{side:9} failed with {one['failed']}"
    return (
        f"{side:9} {one['seconds']:8.2f} {one.get('cpu_seconds', 0):7.2f} {one['tokens'] / one['seconds']:9,.0f} "
        f"{one.get('seconds_waited', 0):7.2f} {one['peak'] / 1e9:8.3f} "
        f"{one.get('bytes_read', 0) / 1e9:8.3f} {one['load']:5.1f}"
    )


def offload_lines(one: dict[str, Any]) -> Iterator[str]:
    if "failed" in one:
        return
    yield (
        f"offload ran {one['batches_run']} of {one['batches']} batches; loading {one['loading']:.0f} s, "
        f"{one['written'] / 1e9:.2f} GB written; for all batches it would read "
        f"{one['estimated_read'] / 1e9:.0f} GB (estimated: every block for every batch)"
    )


if __name__ == "__main__":
    main()
