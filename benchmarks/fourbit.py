"""What loading in 4 bits costs and leaves: memory at its peak, bytes held, seconds, tokens a second.

Each side loads the same mixture-of-experts checkpoint (`benchmarks/checkpoint.py`, 6.3 GB in
bfloat16 by default, random weights) in a process of its own:

- bf16: as published
- stock: transformers' own `load_in_4bit`, NF4 with double quantisation
- nf4: ours, quantised while loading
- saved: ours, read from what `trimtab quantize` wrote

Peak is anonymous memory (RssAnon) above its value after the imports, sampled every 5 ms; pages of
the checkpoint's own files do not count. The bound is what is held + twice the largest fused tensor
in bfloat16 + 0.5 GB. Then tokens a second through the blocks of a smaller checkpoint, in bfloat16
and in NF4, for a batch of few tokens and one of many (median over alternating rounds).

A full run takes about ten minutes on two cores, 9 GB of disk and 7 GB of memory. Quick look:

    python benchmarks/fourbit.py --layers 2 --rounds 2
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import checkpoint
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from trimtab.models.card import ModelConfig
from trimtab.models.held import held_bytes
from trimtab.models.loading import load_weights
from trimtab.models.quantize import save_quantized

SAMPLE_SECONDS = 0.005
SLACK = 0.5e9
FEW, MANY = 8, 1_024
SPEED_LAYERS = 4
SAVED = "nf4"


class Loaded(NamedTuple):
    """One side's measurements."""

    side: str
    """bf16, stock, nf4 or saved."""
    peak_bytes: int
    """Most anonymous memory while loading, above its value after the imports."""
    held_bytes: dict[str, int]
    """By precision."""
    seconds: float
    """From the call to the loaded model."""
    cpu_seconds: float
    """Of those, computing: what does not depend on who else is on the machine."""
    bound_bytes: float
    """Held + twice the largest fused tensor in bfloat16 + 0.5 GB."""

    @property
    def holds(self) -> bool:
        """Whether the peak is within the bound."""
        return self.peak_bytes <= self.bound_bytes


def main() -> None:
    options = parse_options()
    if options.side:
        torch.set_num_threads(options.threads)
        if options.side == "save":
            save_quantized(
                ModelConfig(id=str(options.folder), device="cpu"), options.folder / SAVED
            )
            return
        print(json.dumps(measure(options.side, options.folder)._asdict()))
        return
    context = nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory()
    with context as folder:
        result = run(Path(folder), options)
    print(json.dumps(result, indent=2) if options.json else report(result))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="kept; the default is a temporary one")
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=[*SIDES, "save"], help=argparse.SUPPRESS)
    return parser.parse_args()


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every side, then the speed, on checkpoints that are made where they are missing."""
    large, small = folder / f"moe-{options.layers}", folder / f"moe-{SPEED_LAYERS}"
    size = checkpoint.write(large, checkpoint.shape(options.layers))
    checkpoint.write(small, checkpoint.shape(SPEED_LAYERS))
    sides = [apart(side, large, options.threads) for side in SIDES]
    torch.set_num_threads(options.threads)
    return {
        "checkpoint_bytes": size,
        "threads": options.threads,
        "sides": [side._asdict() | {"holds": side.holds} for side in sides],
        "tokens_per_second": speed(small, options.rounds),
    }


def apart(side: str, folder: Path, threads: int) -> Loaded:
    """A side in a process of its own."""
    if side == "saved" and not (folder / SAVED).exists():
        child("save", folder, threads)
    return Loaded(**json.loads(child(side, folder, threads).splitlines()[-1]))


def child(side: str, folder: Path, threads: int) -> str:
    """What this script prints when it is called for one side."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    command += ["--threads", str(threads)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(side: str, folder: Path) -> Loaded:
    """Loads one side here and now."""
    before = anonymous_bytes()
    peak = Peak()
    with peak:
        start, computed = time.perf_counter(), time.process_time()
        model = SIDES[side](folder)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - computed
    held = held_bytes(model)
    config: Any = AutoConfig.from_pretrained(folder)
    fused = 2 * config.num_experts * 2 * config.moe_intermediate_size * config.hidden_size
    bound = held.total + 2 * fused + SLACK
    return Loaded(side, peak.bytes - before, held.bytes, seconds, cpu_seconds, bound)


class Peak:
    """Samples anonymous memory from a thread while its block runs."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.bytes = max(self.bytes, anonymous_bytes())


def anonymous_bytes() -> int:
    """This process's anonymous memory."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status says nothing of RssAnon")


def load_stock(folder: Path) -> PreTrainedModel:
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )


def load_bf16(folder: Path) -> PreTrainedModel:
    return load_weights(ModelConfig(id=str(folder), device="cpu"))


def load_nf4(folder: Path) -> PreTrainedModel:
    return load_weights(ModelConfig(id=str(folder), device="cpu", precision="nf4"))


def load_saved(folder: Path) -> PreTrainedModel:
    return load_weights(ModelConfig(id=str(folder / SAVED), device="cpu"))


def speed(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Tokens a second through the decoder, by side and batch."""
    models = {"bf16": load_bf16(folder), "nf4": load_nf4(folder)}
    found: dict[str, dict[str, float]] = {side: {} for side in models}
    for count in (FEW, MANY):
        tokens = torch.randint(2, 32_000, (max(1, count // 16), min(count, 16)))
        seconds: dict[str, list[float]] = {side: [] for side in models}
        for round_ in range(rounds + 1):
            for side, model in models.items():
                took = timed(model.model, tokens)
                if round_:
                    seconds[side].append(took)
        for side, took in seconds.items():
            found[side][f"{tokens.numel()} tokens"] = tokens.numel() / statistics.median(took)
    return found


@torch.inference_mode()
def timed(model: Callable[..., Any], tokens: Tensor) -> float:
    start = time.perf_counter()
    model(input_ids=tokens, use_cache=False)
    return time.perf_counter() - start


def report(result: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        f"checkpoint {result['checkpoint_bytes'] / 1e9:.2f} GB in bf16, {result['threads']} thread(s)",
        "",
        "| side | peak GB | held GB | still bf16 GB | bound GB | holds | seconds | CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side in result["sides"]:
        held = side["held_bytes"]
        lines.append(
            f"| {side['side']} | {side['peak_bytes'] / 1e9:.2f} | {sum(held.values()) / 1e9:.2f} "
            f"| {held.get('bfloat16', 0) / 1e9:.2f} | {side['bound_bytes'] / 1e9:.2f} "
            f"| {'yes' if side['holds'] else 'NO'} | {side['seconds']:.1f} | {side['cpu_seconds']:.1f} |"
        )
    speeds = result["tokens_per_second"]
    batches = list(next(iter(speeds.values())))
    lines += ["", "| tokens/s | " + " | ".join(batches) + " |", "|---" * (len(batches) + 1) + "|"]
    for side, found in speeds.items():
        lines.append(f"| {side} | " + " | ".join(f"{found[b]:,.0f}" for b in batches) + " |")
    return "\n".join(lines)


SIDES: dict[str, Callable[[Path], Any]] = {
    "bf16": load_bf16,
    "stock": load_stock,
    "nf4": load_nf4,
    "saved": load_saved,
}


if __name__ == "__main__":
    main()
