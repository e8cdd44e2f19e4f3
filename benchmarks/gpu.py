"""Extraction on a GPU at real shapes, random weights: tokens a second, and of what is possible.

Cases, each with everything freed after it:

- matrix: the card's measured bf16 matrix rate, which all shares are shares of
- qwen3-8b: all 36 layers mean-pooled, lengths of the dev file; beside it the bare blocks and the
  padded loop of batch 8
- qwen3-8b-nf4: the same in NF4
- qwen3-235b-nf4: Qwen3-235B-A22B made in NF4 on one card of 141 GB
- gpt-oss-120b: experts in MXFP4, unpacked when they are read
- layer-major: Qwen3-32B streamed from host memory through a card that cannot hold it; where it
  could, its memory is capped to half the checkpoint, and the table says so
- sae-topk, sae-relu: a training step of an autoencoder of 65,536 latents over 4,096 dimensions
- blend: what one edit adds to a decode step of qwen3-8b, 32 rows, a coder of 65,536 latents in
  bf16, relu and topk, beside the time that reading its matrices takes (`gpu_blend`)

To run it on a rented card: a checkout, and in any Python from 3.11 with a torch for that card

    pip install "transformers==5.23.*" bitsandbytes safetensors numpy pydantic jaxtyping
    PYTHONPATH=platform python benchmarks/gpu.py --device cuda --toy
    PYTHONPATH=platform python benchmarks/gpu.py --json > gpu.json

The second line is a look at toy size. `--cases blend` runs at full size on a CPU too (`--device cpu`, on a
machine of 24 GB; ten minutes on two cores). No Ray, no network, no data file. A card without a network
wants these as wheels; of bitsandbytes' libraries (60 MB zipped) only the one of torch's CUDA is
needed. All cases may take a quarter of an hour, mostly the two large ones; `--cases` picks some. A
case's findings are on stderr as soon as it is done. 128 GB of host memory hold the 32B checkpoint;
give `--room` where memory grows only with its use. A case that fails is reported and the others go
on; the exit code is then 1.

Goals on an H200: 60 % of the matrix rate and 10 times the padded loop for qwen3-8b, the 235B shape
extracted on one card, and a blend that adds at most 1.3 times what its bytes do.
"""

import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import gpu_sae
import numpy as np
import torch
from gpu_blend import blended
from gpu_cases import Setup, held_model, layer_major, matrix_rate, reset_peak

import trimtab
from trimtab.models.registry import REGISTRY, Shape

# Tokens -> distinct prompts "{action} is morally" of social-chem-101.dev.tsv (14,614 of its 20,638
# rows), tokenised as `benchmarks/extract.py` does: a byte-level BPE of 8,192 trained on the prompts.
LENGTHS = {
    3: 35, 4: 131, 5: 613, 6: 1034, 7: 1554, 8: 1963, 9: 1813, 10: 1648, 11: 1463, 12: 1214,
    13: 965, 14: 715, 15: 482, 16: 336, 17: 223, 18: 158, 19: 101, 20: 74, 21: 34, 22: 19, 23: 14,
    24: 10, 25: 4, 26: 5, 27: 1, 28: 4, 29: 1,
}  # fmt: skip
SHAPES = {
    "qwen3": "Qwen/Qwen3-8B",
    "qwen3_moe": "Qwen/Qwen3-235B-A22B",
    "gpt_oss": "openai/gpt-oss-120b",
    "streamed": "Qwen/Qwen3-32B",
}
TOYS = {
    "qwen3": Shape("qwen3", 2, 64, 128, 4, 2, 16, 512),
    "qwen3_moe": Shape("qwen3_moe", 2, 64, 64, 4, 2, 16, 512, num_experts=8, top_k=2),
    "gpt_oss": Shape("gpt_oss", 2, 64, 64, 4, 2, 16, 512, num_experts=8, top_k=2),
    "streamed": Shape("qwen3", 4, 64, 128, 4, 2, 16, 512),
}
CASES: dict[str, Callable[[Setup, dict[str, Shape]], dict[str, Any]]] = {
    "qwen3-8b": lambda setup, shapes: held_model(setup, shapes["qwen3"], "bf16", padded=True),
    "qwen3-8b-nf4": lambda setup, shapes: held_model(setup, shapes["qwen3"], "nf4", padded=True),
    "qwen3-235b-nf4": lambda setup, shapes: held_model(setup, shapes["qwen3_moe"], "nf4"),
    "gpt-oss-120b": lambda setup, shapes: held_model(setup, shapes["gpt_oss"], "mxfp4"),
    "layer-major": lambda setup, shapes: layer_major(setup, shapes["streamed"]),
    "sae-topk": lambda setup, _: train_step("topk", setup),
    "sae-relu": lambda setup, _: train_step("relu", setup),
    "blend": lambda setup, shapes: blended(setup.device, shapes["qwen3"]),
}
ON_CPU = {"blend"}
"""Cases that a CPU does at full size too: a step of 32 rows is bound by memory there as well, where
the CPU has bfloat16 products."""
PACKAGES = ("torch", "transformers", "safetensors", "numpy", "pydantic", "jaxtyping", "bitsandbytes", "triton")  # fmt: skip
COLUMNS = ("case", "held in", "layers", "held GB", "peak GB", "tokens/s", "of the matrix rate", "bare blocks", "over padded")  # fmt: skip


SAE_COLUMNS = ("case", "batch", "steps/s", "rows/s", "steps/s from the host", "of the bound", "products ms", "entries ms", "optimiser ms", "copy GB/s", "peak GB")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments)
    reason = skip_reason(options.device)
    if reason:
        print(json.dumps({"skipped": reason}) if options.json else f"Skipped: {reason}")
        return 0
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    rate = matrix_rate(device, 256 if options.toy else 8_192)
    found: dict[str, Any] = {"machine": machine(device), "matrix": rate, "cases": {}}
    setup = Setup(
        device=device,
        rate=rate["operations_per_second"],
        lengths=draw_lengths(options.prompts),
        padded_prompts=options.padded_prompts,
        budgets=options.budgets,
        folder=options.folder,
        room=options.room and 1e9 * options.room,
        capped=not options.toy,
        coder=gpu_sae.TOY if options.toy else gpu_sae.PAPER,
    )
    shapes = pick_shapes(options)
    for name in options.cases:
        if name in CASES:
            found["cases"][name] = attempt(name, setup, shapes) | left(device)
            print(json.dumps({name: found["cases"][name]}), file=sys.stderr, flush=True)
    print(json.dumps(found, indent=2) if options.json else "\n".join(report(found)))
    return int(any("error" in case for case in found["cases"].values()))


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    choices = ["matrix", *CASES]
    parser.add_argument("--cases", nargs="+", default=choices, choices=choices)
    parser.add_argument("--prompts", type=int, help="prompts of the engine (16,384; toy 64)")
    parser.add_argument("--padded-prompts", type=int, help="of the padded loop (1,024; toy 16)")
    parser.add_argument("--layers", type=int, help="most blocks of any model")
    parser.add_argument("--budgets", type=int, nargs="+", help="tokens (8,192 16,384 32,768)")
    shm = Path("/dev/shm")
    parser.add_argument(
        "--folder",
        type=Path,
        default=shm if shm.is_dir() else Path(tempfile.gettempdir()),
        help="where the checkpoint that streams is written for a while",
    )
    parser.add_argument("--room", type=float, help="GB to use there (what is free, less a fifth)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--toy", action="store_true", help="all models tiny")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.toy and set(options.cases) - ON_CPU:
        parser.error(
            "--device cpu is for toy sizes (give --toy too) and for `--cases blend`, which it does "
            "at full size on a machine of 24 GB"
        )
    options.prompts = options.prompts or (64 if options.toy else 16_384)
    options.padded_prompts = options.padded_prompts or (16 if options.toy else 1_024)
    options.budgets = options.budgets or ([128, 256] if options.toy else [8_192, 16_384, 32_768])
    return options


def skip_reason(device: str) -> str:
    """Why nothing can be measured; empty if it can."""
    if device == "cpu" or torch.cuda.is_available():
        return ""
    return (
        f"torch {torch.__version__} sees no CUDA device. On a machine without a GPU, "
        "`--device cpu --toy` runs every case at toy size."
    )


def pick_shapes(options: argparse.Namespace) -> dict[str, Shape]:
    shapes = (
        TOYS if options.toy else {name: REGISTRY[known].shape for name, known in SHAPES.items()}
    )
    most = options.layers or sys.maxsize
    return {
        name: shape._replace(num_layers=min(shape.num_layers, most))
        for name, shape in shapes.items()
    }


def draw_lengths(count: int) -> list[int]:
    """Lengths of the dev file's prompts in random order, again from the start where it ends."""
    lengths = np.repeat(list(LENGTHS), list(LENGTHS.values()))
    return np.resize(np.random.default_rng(0).permutation(lengths), count).tolist()


def train_step(kind: Literal["topk", "relu"], setup: Setup) -> dict[str, Any]:
    return gpu_sae.train_step(kind, setup.coder, setup.device, setup.rate)


def attempt(name: str, setup: Setup, shapes: dict[str, Shape]) -> dict[str, Any]:
    """A case's findings, or its error."""
    try:
        return CASES[name](setup, shapes)
    except Exception as error:  # noqa: BLE001 (one case must not lose the others)
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}


def left(device: torch.device) -> dict[str, Any]:
    """Frees what a case held; bytes that it did not let go of."""
    reset_peak(device)
    return {"left_bytes": torch.cuda.memory_allocated(device)} if device.type == "cuda" else {}


def machine(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version(), "trimtab": trimtab.__version__}
    found |= {package: version(package) for package in PACKAGES} | {"torch": torch.__version__}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found |= {
            "card": torch.cuda.get_device_name(device),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
            "cuda": torch.version.cuda,
            "free GB": round(free / 1e9, 1),
            "total GB": round(total / 1e9, 1),
        }
    return found


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def report(found: dict[str, Any]) -> Iterator[str]:
    """The lines of a report, a table in Markdown among them."""
    yield ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    rate, size = found["matrix"]["operations_per_second"], found["matrix"]["size"]
    yield f"\nmatrix rate {rate / 1e12:.1f} TFLOP/s (bf16, {size} x {size})\n"
    cases = found["cases"]
    whole = {name: case for name, case in cases.items() if "error" not in case}
    done = {name: case for name, case in whole.items() if "tokens" in case}
    if done:
        yield f"| {' | '.join(COLUMNS)} |"
        yield f"|{'---|' * len(COLUMNS)}"
        for name, case in done.items():
            yield f"| {' | '.join(row(name, case))} |"
        yield ""
        for name, case in done.items():
            yield f"{name}: {details(case)}"
    coders = {name: case for name, case in whole.items() if "kind" in case}
    if coders:
        size = next(iter(coders.values()))
        yield f"\ntraining step, {size['d_model']:,} x {size['width']:,}, k {size['k']}\n"
        yield f"| {' | '.join(SAE_COLUMNS)} |"
        yield f"|{'---|' * len(SAE_COLUMNS)}"
        for name, case in coders.items():
            yield f"| {' | '.join(coder_row(name, case))} |"
    for case in whole.values():
        if "kinds" in case:
            yield from blend_lines(case)
    for name, case in cases.items():
        if "error" in case:
            yield f"{name} FAILED: {case['error']}"


def row(name: str, case: dict[str, Any]) -> Iterator[str]:
    held = case.get("held_bytes", {})
    yield name
    yield case["precision"]
    yield str(case["layers"])
    yield gigabytes(sum(held.values())) if held else "streamed"
    yield gigabytes(case["peak_bytes"])
    yield f"{case['tokens_per_second']:,.0f}"
    yield f"{case['share_of_matrix_rate']:.1%}"
    yield f"{case['bound']['share_of_matrix_rate']:.1%}" if "bound" in case else "-"
    yield f"{case['over_padded']:.1f} x" if "over_padded" in case else "-"


def coder_row(name: str, case: dict[str, Any]) -> Iterator[str]:
    yield name
    yield f"{case['batch']:,}"
    yield f"{case['steps_per_second']:.1f}"
    yield f"{case['rows_per_second']:,.0f}"
    yield f"{case['host_steps_per_second']:.1f}"
    yield f"{case['share_of_bound']:.0%}"
    for part in ("products", "entries", "optimiser"):
        yield f"{1e3 * case['bound_seconds'][part]:.2f}"
    yield f"{case['bytes_per_second'] / 1e9:,.0f}"
    yield gigabytes(case["peak_bytes"])


def details(case: dict[str, Any]) -> str:
    parts = [
        f"{case['prompts']:,} prompts of {case['tokens']:,} tokens in {case['seconds']:.2f} s "
        f"({len(case['rounds'])} rounds)",
        f"budget {case['token_budget']:,}",
    ]
    if "held_bytes" in case:
        held = ", ".join(f"{name} {gigabytes(size)}" for name, size in case["held_bytes"].items())
        parts.append(f"holds {held} GB (formula {gigabytes(case['formula_bytes'])})")
        parts.append(
            f"made in {case['making_seconds']:.0f} s at {gigabytes(case['making_peak_bytes'])} GB"
        )
    if "padded" in case:
        padded = case["padded"]
        parts.append(
            f"padded loop {padded['tokens_per_second']:,.0f} tokens/s over {padded['prompts']:,} prompts"
        )
    if "unpacking" in case:
        unpacking = case["unpacking"]
        parts.append(
            f"unpacking {1e3 * unpacking['seconds_per_block']:.1f} ms a block, at most "
            f"{unpacking['most_share_of_bound']:.0%} of the bare blocks' time"
        )
    if "checkpoint_bytes" in case:
        parts += streamed_details(case)
    return "; ".join(parts)


def blend_lines(case: dict[str, Any]) -> Iterator[str]:
    yield (
        f"\nblend: {case['rows']} rows, {case['latents']:,} latents, {case['past']} tokens behind them, "
        f"{1e3 * case['plain_seconds']:.2f} ms a step without ({case['steps']} steps), memory read "
        f"at {case['bytes_per_second'] / 1e9:,.0f} GB/s\n"
    )
    yield "| coder | adds to a step | its share of the bytes | times | alone | reading alone | times |"
    yield f"|{'---|' * 7}"
    for kind, one in case["kinds"].items():
        yield (
            f"| {kind} | {1e6 * one['added_seconds']:.0f} us, {one['overhead']:.1%} | "
            f"{one['share_of_bytes']:.1%} | {one['over_share']:.2f} | "
            f"{1e6 * one['alone_seconds']:.0f} us | {1e6 * one['bound_seconds']:.0f} us | "
            f"{one['over_bound']:.2f} |"
        )


def streamed_details(case: dict[str, Any]) -> Iterator[str]:
    if case["layers"] < case["cut_from_layers"]:
        yield f"CUT from {case['cut_from_layers']} layers to what the folder holds"
    yield f"checkpoint {gigabytes(case['checkpoint_bytes'])} GB written in {case['writing_seconds']:.0f} s"
    if case["memory_bytes"] is not None:
        yield f"the card's memory was CAPPED at {gigabytes(case['memory_bytes'])} GB, or it would fit"
    yield f"{gigabytes(case['bytes_per_pass'])} GB read a pass, alone at {gigabytes(case['read_bytes_per_second'])} GB/s"
    yield f"waited for reads {case['waited_share']:.1%} of the time"
    yield (
        f"two blocks {gigabytes(case['two_blocks_bytes'])} GB + hidden states "
        f"{gigabytes(case['hidden_states_bytes'])} GB, peak {gigabytes(case['peak_bytes'])} GB"
    )


def gigabytes(size: float | None) -> str:
    return "-" if size is None else f"{size / 1e9:.2f}"


if __name__ == "__main__":
    sys.exit(main())
