"""What `benchmarks/gpu.py` measures: a model that is held, one that streams, the card itself.

The sides of a held model, over the same prompts:

- engine: `trimtab.models.engine`, every layer mean-pooled, rows on the host at the end
- bound: the bare blocks on the engine's batches, embedded beforehand, nothing captured: what is
  between it and the engine is the engine's own, what is between it and the matrix rate is not
- padded: what everybody writes first, batches of 8 in file order with `output_hidden_states`

Every clock starts and stops with the device idle. A round that takes over a minute stays alone.
"""

import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gpu_models import Made, Precision, configuration, make, write_checkpoint
from gpu_sae import TOY, CoderSize
from torch import Tensor, nn

from trimtab.core.errors import ModelError
from trimtab.models.batching import plan_batches
from trimtab.models.blocks import BlockSource
from trimtab.models.engine import Engine, Prompt, Request
from trimtab.models.registry import Shape
from trimtab.models.states import free_memory
from trimtab.models.weights import Weights, weigh

PADDED_BATCH = 8
WARM_PROMPTS = 256
ROUNDS = 3
LONG_SECONDS = 60
SHARE_OF_ROOM = 0.8
"""Of the free memory behind the folder that a checkpoint and the pooled rows may take."""


class Setup(NamedTuple):
    """What all cases have in common."""

    device: torch.device
    """Where models run."""
    rate: float
    """Its measured bf16 matrix rate in operations a second: the denominator of shares."""
    lengths: list[int]
    """Tokens of each prompt, in file order."""
    padded_prompts: int
    """Of these, how many the padded loop runs, being slow."""
    budgets: list[int]
    """Token budgets to choose from."""
    folder: Path
    """Where a checkpoint that streams is written: memory, if it can be had."""
    room: float | None
    """Bytes that it and the pooled rows may take; None is what is free."""
    capped: bool
    """Whether the card's memory is capped where a model that streams would fit."""
    coder: CoderSize = TOY
    """The autoencoder that is trained."""


def matrix_rate(device: torch.device, size: int) -> dict[str, Any]:
    """bf16 operations a second of a large square product, warm, the median of ten rounds."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)

    def ten() -> None:
        for _ in range(10):
            torch.mm(left, right, out=out)

    clock(ten, device)
    seconds = statistics.median(clock(ten, device) for _ in range(10)) / 10
    return {"size": size, "operations_per_second": 2 * size**3 / seconds}


def held_model(
    setup: Setup, shape: Shape, precision: Precision, *, padded: bool = False
) -> dict[str, Any]:
    """A model made on the device: bytes, and every side's tokens a second."""
    start = time.perf_counter()
    made = make(shape, precision, setup.device)
    synchronise(setup.device)
    found = {
        **described(shape, precision, made.weights),
        "held_bytes": made.held,
        "formula_bytes": made.weights.parts.bytes_in(precision),
        "making_seconds": time.perf_counter() - start,
        "making_peak_bytes": peak(setup.device),
    }
    prompts = draw_prompts(setup.lengths, shape.vocabulary)
    found |= engine_side(setup, made.decoder, made.weights, prompts)
    found["bound"] = bound_side(setup, made, prompts, found["token_budget"])
    if precision != "bf16" and shape.num_experts:
        found["unpacking"] = unpacking(setup, made, found)
    if padded:
        found["padded"] = padded_side(setup, made, prompts[: setup.padded_prompts])
        found["over_padded"] = found["tokens_per_second"] / found["padded"]["tokens_per_second"]
    return found


def layer_major(setup: Setup, shape: Shape) -> dict[str, Any]:
    """A model that streams from host memory, larger than the memory that the card has for it."""
    from trimtab.models.loading import ModelConfig  # these need bitsandbytes
    from trimtab.models.streamed import open_streamed

    whole, shape = shape.num_layers, _cut_to_room(setup, shape)
    config = configuration(shape)
    weights = weigh(config)
    with tempfile.TemporaryDirectory(prefix="tt-", dir=setup.folder) as folder:
        start = time.perf_counter()
        size = write_checkpoint(Path(folder), config, setup.device)
        written = time.perf_counter() - start
        reset_peak(setup.device)
        limit = _cap(setup, size)
        try:
            place = "cuda" if setup.device.type == "cuda" else "cpu"
            source = open_streamed(ModelConfig(id=folder, device=place))
            prompts = draw_prompts(setup.lengths, shape.vocabulary)
            found = {
                **described(shape, "bf16", weights),
                **streamed_side(setup, source, weights, prompts),
                "cut_from_layers": whole,
                "checkpoint_bytes": size,
                "writing_seconds": written,
                "memory_bytes": limit,
            }
        finally:
            if limit is not None:
                torch.cuda.set_per_process_memory_fraction(1.0, setup.device)
    return found


def described(shape: Shape, precision: str, weights: Weights) -> dict[str, Any]:
    return {
        "architecture": shape.architecture,
        "layers": shape.num_layers,
        "parameters": weights.parameters,
        "precision": precision,
        "flops_per_token": weights.flops_per_token,
    }


def engine_side(
    setup: Setup, source: BlockSource, weights: Weights, prompts: list[Prompt]
) -> dict[str, Any]:
    """Runs every budget once, and the best of them again."""
    request = Request(layers=tuple(range(source.num_layers)))

    fitted = {}

    def extract(budget: int, some: list[Prompt]) -> None:
        asked = request.model_copy(update={"token_budget": budget})
        fitted[budget] = Engine(source, asked, setup.device).extract(some).token_budget

    reset_peak(setup.device)
    extract(setup.budgets[0], prompts[:WARM_PROMPTS])
    seconds = {
        budget: clock(lambda budget=budget: extract(budget, prompts), setup.device)
        for budget in setup.budgets
    }
    best = min(seconds, key=lambda budget: seconds[budget])
    rounds = [seconds[best]]
    if seconds[best] < LONG_SECONDS:
        rounds = repeated(lambda: extract(best, prompts), setup.device)
    tokens = sum(setup.lengths)
    return {
        "prompts": len(prompts),
        "token_budget": fitted[best],
        "by_budget": {budget: tokens / one for budget, one in seconds.items()},
        **speed(setup, weights, tokens, rounds),
        "peak_bytes": peak(setup.device),
    }


def streamed_side(
    setup: Setup,
    source: Any,  # noqa: ANN401 (a StreamedDecoder, imported where bitsandbytes is)
    weights: Weights,
    prompts: list[Prompt],
) -> dict[str, Any]:
    """Runs the largest budget; the warm-up reads the weights and computes nearly nothing."""
    request = Request(layers=tuple(range(source.num_layers)), token_budget=max(setup.budgets))
    engine = Engine(source, request, setup.device)
    reading = clock(lambda: engine.extract(prompts[:WARM_PROMPTS]), setup.device)
    read = source.bytes_read
    waits = []

    def extract() -> None:
        before = source.seconds_waited
        engine.extract(prompts)
        waits.append(source.seconds_waited - before)

    rounds = repeated(extract, setup.device)
    tokens = sum(setup.lengths)
    seconds = statistics.median(rounds)
    waited = waits[min(range(len(rounds)), key=lambda i: abs(rounds[i] - seconds))]
    return {
        "prompts": len(prompts),
        "token_budget": engine.token_budget,
        **speed(setup, weights, tokens, rounds),
        "waited_share": waited / seconds,
        "bytes_per_pass": (source.bytes_read - read) / len(rounds),
        "read_bytes_per_second": read / reading,
        "peak_bytes": peak(setup.device),
        "two_blocks_bytes": 2 * weights.largest_block.bytes_in("bf16"),
        "hidden_states_bytes": 2 * tokens * weights.d_model,
    }


@torch.inference_mode()
def bound_side(
    setup: Setup, made: Made, prompts: list[Prompt], token_budget: int
) -> dict[str, Any]:
    """The bare blocks over the engine's batches."""
    batches = plan_batches([len(prompt.tokens) for prompt in prompts], token_budget)
    starts = [
        made.decoder.start(
            torch.tensor([prompts[i].tokens for i in batch.which], device=setup.device)
        )
        for batch in batches
    ]

    @torch.inference_mode()
    def run() -> None:
        hidden = [start.hidden for start in starts]
        for layer, block in enumerate(made.decoder.blocks(made.decoder.num_layers - 1)):
            for i, start in enumerate(starts):
                call = start.calls[layer]
                hidden[i] = block(hidden[i], *call.args, **call.kwargs)

    rounds = repeated(run, setup.device)
    return {"batches": len(batches), **speed(setup, made.weights, sum(setup.lengths), rounds)}


def padded_side(setup: Setup, made: Made, prompts: list[Prompt]) -> dict[str, Any]:
    """The loop that everybody writes first, prompts in file order."""
    run_padded(made.model, prompts[: 2 * PADDED_BATCH], setup.device)
    rounds = repeated(lambda: run_padded(made.model, prompts, setup.device), setup.device)
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    return {"prompts": len(prompts), **speed(setup, made.weights, tokens, rounds)}


@torch.inference_mode()
def run_padded(model: nn.Module, prompts: list[Prompt], device: torch.device) -> list[Tensor]:
    """Mean-pooled hidden states, of which transformers gives the last one normalised."""
    batches = []
    for start in range(0, len(prompts), PADDED_BATCH):
        rows = [torch.tensor(p.tokens) for p in prompts[start : start + PADDED_BATCH]]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(tokens.shape[1], device=device) < lengths[:, None]).long()
        output = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
        pooled = [
            (h * mask[..., None]).sum(1, dtype=torch.float32) / lengths[:, None]
            for h in output.hidden_states[1:]
        ]
        batches.append([rows.cpu() for rows in pooled])
    return [torch.cat(layer) for layer in zip(*batches, strict=True)]


def unpacking(setup: Setup, made: Made, found: dict[str, Any]) -> dict[str, float]:
    """What it takes to read a block's experts densely, and what share of the bound that makes.

    At most: a batch of few tokens reads only the experts that they were routed to.
    """
    from trimtab.models.packed import packings

    block = next(made.decoder.blocks(0))
    held = [packed for module in block.modules() for packed in packings(module)]

    @torch.inference_mode()
    def read() -> None:
        for _, packing, packed in held:
            packing.unpack(packed)

    clock(read, setup.device)
    seconds = statistics.median(repeated(read, setup.device))
    blocks = found["layers"] * found["bound"]["batches"]
    return {
        "seconds_per_block": seconds,
        "most_share_of_bound": seconds * blocks / found["bound"]["seconds"],
    }


def speed(setup: Setup, weights: Weights, tokens: int, rounds: list[float]) -> dict[str, Any]:
    """Tokens a second, and the share of the matrix rate that their products are."""
    seconds = statistics.median(rounds)
    return {
        "tokens": tokens,
        "seconds": seconds,
        "rounds": rounds,
        "tokens_per_second": tokens / seconds,
        "share_of_matrix_rate": tokens / seconds * weights.flops_per_token / setup.rate,
    }


def draw_prompts(lengths: Sequence[int], vocabulary: int) -> list[Prompt]:
    """Random tokens; no two prompts are likely to be equal, and none is left out for it."""
    generator = np.random.default_rng(0)
    drawn = [generator.integers(1, vocabulary, size=length).tolist() for length in lengths]
    return [Prompt(tokens, str(i)) for i, tokens in enumerate(drawn)]


def repeated(run: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of three rounds; of one where a round takes long."""
    rounds = [clock(run, device)]
    while len(rounds) < ROUNDS and rounds[0] < LONG_SECONDS:
        rounds.append(clock(run, device))
    return rounds


def clock(run: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Gives cached memory back, and counts the peak from here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    """Most bytes of the card's memory that tensors took; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _cap(setup: Setup, checkpoint_bytes: int) -> int | None:
    """Makes a card that would hold the model one that would not; the memory it is left with."""
    if not setup.capped or setup.device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(setup.device)
    if free < checkpoint_bytes:
        return None
    torch.cuda.set_per_process_memory_fraction(checkpoint_bytes / 2 / total, setup.device)
    return checkpoint_bytes // 2


def _cut_to_room(setup: Setup, shape: Shape) -> Shape:
    """As many blocks as the folder and the host's memory hold, beside the pooled rows."""
    weights, folder = weigh(configuration(shape)), setup.folder
    free = min(shutil.disk_usage(folder).free, free_memory(torch.device("cpu")))
    room = setup.room or SHARE_OF_ROOM * free
    ends = 2 * weights.parts.embedding
    each = weights.largest_block.bytes_in("bf16") + 4 * len(setup.lengths) * weights.d_model
    layers = min(shape.num_layers, int((room - ends) // each))
    if layers < 2:
        raise ModelError(
            f"A checkpoint that streams needs {(ends + 2 * each) / 1e9:.1f} GB of memory behind "
            f"{folder}, but only {room / 1e9:.1f} GB are to be had. Give another --folder, or --room."
        )
    return shape._replace(num_layers=layers)
