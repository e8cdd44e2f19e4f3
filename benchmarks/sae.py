"""A step of a TopK autoencoder: ours, SAELens', dictionary_learning's and sparsify's.

All sides train the same coder from the same start on the same batches in float32: with exact
gradients and with latents selected in bfloat16 (ours), and with their own trainers' public steps
(theirs, in `.interop`, which `make interop` builds). Each is a process of its own that works only
when it is asked (`sae_worker.py`, which says what is set alike), so that all sides take part in
one run, in one order and then the other; the table has the median of the rounds.

The peers' steps ask for fresh memory of a batch's pre-activations again and again. `--keep-freed`
lets glibc keep what was freed, in every process: it is not what their users run, and makes them up
to 1.7 times faster; ours keeps its buffers anyway.

The limit is the encoder's product and the sparse ones, 2 N d M + 8 N k d operations, at the matrix
rate measured between the rounds: float32's for exact gradients, and bfloat16's for the product of
a selection in bfloat16. The error is the fraction of variance unexplained on held-out rows after
the same number of steps.

The case `store` is about trials, not steps (`sae_store.py`): eight over one store, and eight that
each extract for themselves.

The rows are sparse sums of random directions of uneven frequency, with noise and a mean. A full run
takes nine minutes on two cores and 6 GB. Quick look:

    python benchmarks/sae.py --rounds 1 --steps 2 --warm-up 1 --cases small

Goals: exact 3.5 x SAELens and dictionary_learning and 1.5 x (small) or 1.15 x (large) sparsify;
bfloat16 selection 2.2 x or 1.5 x sparsify; error at most 1 % above the best peer's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sae_store
import torch
from sae_worker import SIDES, Setting
from safetensors.torch import save_file
from torch import Tensor

from trimtab.stream.publish import git_commit

OURS = ("ours", "ours-bf16")
KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
ROWS, HELD_OUT = 32_768, 2_048
FREQUENCY_RANGE = 30.0
NOISE = 0.1


class Case(NamedTuple):
    """A size, and what is asked of it."""

    d_model: int
    width: int
    k: int
    batch: int
    steps: int
    """Steps of a round."""
    goals: dict[tuple[str, str], float]
    """How many times faster the first side should be than the second."""


CASES = {
    "small": Case(512, 4_096, 32, 2_048, 20, {
        ("ours", "sae-lens"): 3.5, ("ours", "dictionary-learning"): 3.5, ("ours", "sparsify"): 1.5,
        ("ours-bf16", "sparsify"): 2.2,
    }),
    "large": Case(1_024, 16_384, 32, 2_048, 6, {
        ("ours", "sae-lens"): 3.5, ("ours", "dictionary-learning"): 3.5, ("ours", "sparsify"): 1.15,
        ("ours-bf16", "sparsify"): 1.5,
    }),
    "toy": Case(16, 64, 4, 32, 3, {("ours-bf16", "ours"): 0.0}),
}  # fmt: skip
ERROR_GOAL = 1.01
STORE = "store"
DEFAULT = ["small", "large", STORE]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    found: dict[str, Any] = {"machine": machine(options), "cases": {}}
    for name in options.cases:
        found["cases"][name] = measure(name, options)
        print("\n".join(report(name, found["cases"][name])), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in found["machine"].items()))
    for name, case in found["cases"].items():
        print("\n".join(report(name, case)))


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=DEFAULT, choices=[*CASES, STORE])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of a round (20 small, 6 large)")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before the first round")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    default = Path(__file__).parents[1] / ".interop" / "bin" / "python"
    parser.add_argument("--python", type=Path, default=default, help="the peers' Python")
    parser.add_argument("--keep-freed", action="store_true", help="all sides keep freed memory")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    if set(options.sides) - set(OURS) and not options.python.exists():
        parser.error(f"there is no {options.python}: run `make interop`, or give --sides {OURS}")
    return options


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    if name == STORE:
        torch.set_num_threads(options.threads)
        return sae_store.compare()
    case = CASES[name]
    return run(case._replace(steps=options.steps or case.steps), options)


def run(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All sides in turn, in one order and then the other."""
    steps = options.warm_up + options.rounds * case.steps
    setting = Setting(
        *case[:4], steps=steps, learning_rate=options.learning_rate, threads=options.threads
    )
    with tempfile.TemporaryDirectory(prefix="tt-") as name, ExitStack() as stack:
        write_inputs(Path(name), setting)
        workers = {
            side: stack.enter_context(worker(side, Path(name), options)) for side in options.sides
        }
        seconds: dict[str, list[float]] = {side: [] for side in workers}
        for one in workers.values():
            one.ask(f"steps {options.warm_up}")
        rates = []
        for number in range(options.rounds):
            rates.append(workers[options.sides[0]].ask("rates"))
            for side in list(workers) if number % 2 == 0 else reversed(workers):
                took = workers[side].ask(f"steps {case.steps}")["seconds"]
                seconds[side].append(took / case.steps)
        errors = {side: one.ask("error")["unexplained"] for side, one in workers.items()}
    return summary(case, setting, seconds, errors, rates)


class Worker:
    """A side's process."""

    def __init__(self, side: str, process: "subprocess.Popen[str]") -> None:
        self.side = side
        self.process = process
        self.versions = self._answer()

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the side {self.side} ended without an answer; see above")
        return json.loads(line)


@contextmanager
def worker(side: str, folder: Path, options: argparse.Namespace) -> Iterator[Worker]:
    python = Path(sys.executable) if side in OURS else options.python
    script = Path(__file__).with_name("sae_worker.py")
    with subprocess.Popen(
        [python, script, side, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | (KEEP_FREED if options.keep_freed else {}),
    ) as process:
        try:
            yield Worker(side, process)
        finally:
            process.kill()


def write_inputs(folder: Path, setting: Setting) -> None:
    """Rows, batches and the start, for every side."""
    generator = torch.Generator().manual_seed(0)
    x = structured_rows(setting, ROWS + HELD_OUT, generator)
    rows, held_out = x[:ROWS].contiguous(), x[ROWS:].contiguous()
    each = ROWS // setting.batch
    epochs = -(-setting.steps // each)
    order = torch.cat([torch.randperm(ROWS, generator=generator) for _ in range(epochs)])
    W = torch.randn(setting.width, setting.d_model, generator=generator)
    W /= W.norm(dim=1, keepdim=True)
    start = {"W_enc": W, "W_dec": W.clone(), "b_enc": torch.zeros(setting.width)}
    save_file({"x": rows}, folder / "rows.safetensors")
    save_file({"x": held_out}, folder / "held_out.safetensors")
    save_file(start | {"b_dec": rows.mean(0)}, folder / "start.safetensors")
    batches = order[: epochs * each * setting.batch].view(-1, setting.batch)
    save_file({"order": batches.contiguous()}, folder / "order.safetensors")
    (folder / "setting.json").write_text(json.dumps(setting._asdict()), "utf-8")


def structured_rows(setting: Setting, num: int, generator: torch.Generator) -> Tensor:
    """Sums of about k of 2 x d_model directions, some common and some rare, of unit variance."""
    directions = torch.randn(2 * setting.d_model, setting.d_model, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    frequency = torch.logspace(0, -1, len(directions), base=FREQUENCY_RANGE)
    frequency *= setting.k / frequency.sum()
    parts = []
    for _ in range(0, num, setting.batch):
        drawn = torch.rand(setting.batch, len(directions), generator=generator)
        size = 1 + torch.rand(drawn.shape, generator=generator)
        parts.append((drawn < frequency) * size @ directions)
    x = torch.cat(parts)[:num]
    x -= x.mean(0)
    x += NOISE * x.std() * torch.randn(x.shape, generator=generator)
    return x / x.std() + torch.randn(setting.d_model, generator=generator)


def summary(
    case: Case,
    setting: Setting,
    seconds: dict[str, list[float]],
    errors: dict[str, float],
    rates: list[dict[str, float]],
) -> dict[str, Any]:
    median = {side: statistics.median(each) for side, each in seconds.items()}
    rate = {dtype: statistics.median(one[dtype] for one in rates) for dtype in rates[0]}
    dense = 2 * setting.batch * setting.d_model * setting.width
    sparse = 8 * setting.batch * setting.k * setting.d_model
    limit = {
        "exact": (dense + sparse) / rate["float32"],
        "bf16": dense / rate["bfloat16"] + sparse / rate["float32"],
    }
    goals = [
        {"faster": a, "than": b, "times": median[b] / median[a], "goal": goal}
        for (a, b), goal in case.goals.items()
        if a in median and b in median
    ]
    peers = [error for side, error in errors.items() if side not in OURS]
    return {
        **setting._asdict(),
        "round_steps": case.steps,
        "rounds": seconds,
        "seconds": median,
        "unexplained": errors,
        "rate": rate,
        "limit": limit,
        "share_of_limit": {
            side: limit["bf16" if side == "ours-bf16" else "exact"] / each
            for side, each in median.items()
        },
        "goals": goals,
        "error_over_best_peer": {
            side: errors[side] / min(peers) for side in OURS if side in errors and peers
        },
    }


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
        "commit": git_commit(),
        "rounds": options.rounds,
        "keep freed": options.keep_freed,
    }


def report(name: str, case: dict[str, Any]) -> Iterator[str]:
    """The lines of a case, a table in Markdown among them."""
    if name == STORE:
        yield from sae_store.report(case)
        return
    rate = case["rate"]
    yield (
        f"\n{name}: {case['d_model']:,} x {case['width']:,}, k {case['k']}, batch "
        f"{case['batch']:,}; {case['round_steps']} steps a round; matrix rate "
        f"{rate['float32'] / 1e9:.0f} (float32) and {rate['bfloat16'] / 1e9:.0f} (bfloat16) GFLOP/s\n"
    )
    yield "| side | ms a step | steps/s | share of the limit | unexplained |"
    yield "|---|---|---|---|---|"
    for side, seconds in case["seconds"].items():
        yield (
            f"| {side} | {1e3 * seconds:.1f} | {1 / seconds:.2f} | "
            f"{case['share_of_limit'][side]:.0%} | {case['unexplained'][side]:.4f} |"
        )
    yield f"\nunexplained on {HELD_OUT:,} held-out rows after {case['steps']} steps"
    for goal in case["goals"]:
        verdict = "reached" if goal["times"] >= goal["goal"] else "MISSED"
        yield (
            f"{goal['faster']} over {goal['than']}: {goal['times']:.2f} x "
            f"(goal {goal['goal']:g} x: {verdict})"
        )
    for side, over in case["error_over_best_peer"].items():
        verdict = "reached" if over <= ERROR_GOAL else "MISSED"
        yield f"{side}'s error over the best peer's: {over:.4f} (goal {ERROR_GOAL}: {verdict})"


if __name__ == "__main__":
    main()
