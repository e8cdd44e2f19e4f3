"""How fast many edits of one model are tried: arms in shared batches, grids from shared prefixes.

Cases, random weights in float32; all sides of a case run in turn, in one order and then the other:

- decode: 16 arms (4 layers x 4 alphas of a blend) of 8 prompts, greedy, 64 new tokens. Ours: all arms
  in one batch. Theirs: 16 runs of transformers' `generate`, batch 8, the same blend as a hook. The
  tokens must be equal.
- varied: the same where the 8 prompts have 4 lengths, so that ours runs batches of two prompts, and
  theirs pads on the left.
- grid: 24 arms (layers 2, 5, 8, 11 x 6 alphas) of 64 prompts, last-token scores, 12 layers, d 512, a
  vocabulary of 32k. Ours: the residual below each layer once, the head on the scored position. Naive:
  a hooked forward for each arm over the same exact-length batches (which spares it all padding). The
  edit is a direction, which costs nothing to apply; `--edits blend` encodes once a layer here and
  once an arm there. Its warm-up is one arm.
- bfloat16: how many answers are the same alone and among all 128, where rounding differs with the
  batch (in float32 all of them are).

What one blend adds to a decode step: `gpu.py --cases blend`, which also runs on a CPU. A round of the grid takes two minutes on two idle cores, one of the others a few seconds. Quick look:
`--toy`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from extract import machine
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from trimtab.core.seeds import Seed
from trimtab.edits.arms import Arm, Coder, Materials
from trimtab.evaluation.decoding import DecodingConfig
from trimtab.evaluation.generate import Row, generate
from trimtab.evaluation.resume import Resumable
from trimtab.evaluation.scores import Given, log_probabilities
from trimtab.models.allocator import keep_freed_memory
from trimtab.models.batching import plan_batches
from trimtab.models.blocks import locate_decoder
from trimtab.sae.coder import CoderConfig, Sae

GREEDY_SEED = Seed(0)


class Size(NamedTuple):
    """What a case runs on."""

    layers: int
    width: int
    vocabulary: int
    latents: int
    new_tokens: int
    prompts: int
    edited: tuple[int, ...]
    alphas: tuple[float, ...]


DECODE = Size(4, 128, 4_096, 1_024, 64, 8, (0, 1, 2, 3), (0.05, 0.1, 0.2, 0.4))
GRID = Size(12, 512, 32_000, 4_096, 0, 64, (2, 5, 8, 11), (0.05, 0.1, 0.2, 0.4, 0.8, 1.0))
TOY_DECODE = DECODE._replace(width=32, vocabulary=128, latents=64, new_tokens=6)
TOY_GRID = GRID._replace(width=32, vocabulary=128, latents=64, prompts=6)
CASES = ("decode", "varied", "grid", "bfloat16")
EDITS = ("direction", "blend")
TOKEN_BUDGET = 1_024


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    sizes = (TOY_DECODE, TOY_GRID) if options.toy else (DECODE, GRID)
    found: dict[str, Any] = {"machine": machine(options)}
    for name in options.cases:
        found[name] = case(name, *sizes, options)
    print(json.dumps(found, indent=2) if options.json else "\n".join(report(found)))


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--edits", nargs="+", default=EDITS[:1], choices=EDITS, help="of the grid")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--toy", action="store_true", help="all models tiny")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(data="random")
    return parser.parse_args(arguments)


def case(name: str, decode: Size, grid: Size, options: argparse.Namespace) -> dict[str, Any]:
    rounds = options.rounds
    match name:
        case "decode":
            return decoding(decode, [16] * decode.prompts, rounds)
        case "varied":
            lengths = [12, 14, 16, 18] * (decode.prompts // 4)
            return decoding(decode, lengths, rounds)
        case "grid":
            return {kind: scoring(grid, kind, rounds) for kind in options.edits}
        case _:
            return agreement(decode)


def make_model(size: Size) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=3 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=max(2, size.width // 64),
        num_key_value_heads=max(1, size.width // 128),
        head_dim=min(64, size.width // 2),
        max_position_embeddings=1_024,
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def make_coder(size: Size, seed: int) -> Sae:
    sae = Sae(CoderConfig(kind="topk", width=size.latents, k=32), size.width)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (sae.W_enc, sae.W_dec):
            weight.copy_(torch.randn(weight.shape, generator=generator))
            weight.div_(weight.norm(dim=1, keepdim=True))
    return sae.requires_grad_(False)


def make_arms(size: Size, kind: str) -> tuple[list[Arm], Materials]:
    arms = [
        Arm(
            name=f"{layer}/{alpha}",
            kind=cast(Any, kind),
            layer=layer,
            alpha=alpha,
            coder=str(layer) if kind == "blend" else "",
            direction=str(layer) if kind == "direction" else "",
        )
        for layer in size.edited
        for alpha in size.alphas
    ]
    coders = {str(layer): Coder(make_coder(size, layer)) for layer in size.edited}
    generator = torch.Generator().manual_seed(0)
    drawn = {str(layer): torch.randn(size.width, generator=generator) for layer in size.edited}
    return arms, Materials(coders, drawn)


def make_prompts(lengths: Sequence[int], vocabulary: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, vocabulary, length).tolist() for length in lengths]


@contextmanager
def hooked(model: nn.Module, arm: Arm, materials: Materials) -> Iterator[None]:
    """One edit as everybody writes it: a hook on one block, for the whole batch."""

    def blended(_block: nn.Module, _args: object, hidden: Tensor) -> Tensor:
        return hidden + arm.alpha * (materials.coders[arm.coder].sae(hidden) - hidden)

    def directed(_block: nn.Module, _args: object, hidden: Tensor) -> Tensor:
        return hidden + arm.alpha * materials.directions[arm.direction]

    assert arm.layer is not None, "only edits are hooked"
    block = list(locate_decoder(model).blocks(arm.layer))[arm.layer]
    handle = block.register_forward_hook(blended if arm.kind == "blend" else directed)
    try:
        yield
    finally:
        handle.remove()


def decoding(size: Size, lengths: Sequence[int], rounds: int) -> dict[str, Any]:
    """All arms of all prompts, both ways."""
    model, (arms, materials) = make_model(size), make_arms(size, "blend")
    prompts = make_prompts(lengths, size.vocabulary)
    said: dict[str, list[list[int]]] = {}

    def shared() -> None:
        said["shared"] = decode_shared(model, prompts, arms, materials, size.new_tokens)

    def separate() -> None:
        said["separate"] = decode_separately(model, prompts, arms, materials, size.new_tokens)

    shared()
    separate()
    seconds = in_turn({"shared": shared, "separate": separate}, rounds)
    equal = [a == b for a, b in zip(said["shared"], said["separate"], strict=True)]
    tokens = len(arms) * len(prompts) * size.new_tokens
    return {
        "arms": len(arms),
        "prompts": len(prompts),
        "tokens": tokens,
        **timed(seconds),
        "tokens_per_second": {side: tokens / median for side, median in medians(seconds).items()},
        "equal": sum(equal) / len(equal),
        "ratio": medians(seconds)["separate"] / medians(seconds)["shared"],
    }


def agreement(size: Size) -> dict[str, Any]:
    """Answers in one batch against answers one by one, both in bfloat16."""
    model, (arms, materials) = make_model(size).bfloat16(), make_arms(size, "blend")
    materials = materials.to(torch.device("cpu"), torch.bfloat16)
    prompts = make_prompts([16] * size.prompts, size.vocabulary)
    together = decode_shared(model, prompts, arms, materials, size.new_tokens)
    alone = [
        one
        for arm in arms
        for prompt in prompts
        for one in decode_shared(model, [prompt], [arm], materials, size.new_tokens)
    ]
    equal = [a == b for a, b in zip(together, alone, strict=True)]
    return {"answers": len(equal), "equal": sum(equal) / len(equal)}


def decode_shared(
    model: PreTrainedModel,
    prompts: list[list[int]],
    arms: list[Arm],
    materials: Materials,
    new_tokens: int,
) -> list[list[int]]:
    """Each arm's answers to each prompt, arm by arm."""
    settings = DecodingConfig(
        max_new_tokens=new_tokens, temperature=0.0, repetition_penalty=1.0, template="raw"
    )
    said: dict[tuple[int, int], list[int]] = {}
    for length in sorted({len(prompt) for prompt in prompts}):
        which = [
            (a, p)
            for a in range(len(arms))
            for p, prompt in enumerate(prompts)
            if len(prompt) == length
        ]
        rows = [Row(prompts[p], arms[a], GREEDY_SEED, f"{p}") for a, p in which]
        found = generate(model, rows, materials, settings, stop=())
        said |= {place: one.tokens for place, one in zip(which, found, strict=True)}
    return [said[place] for place in sorted(said)]


@torch.inference_mode()
def decode_separately(
    model: PreTrainedModel,
    prompts: list[list[int]],
    arms: list[Arm],
    materials: Materials,
    new_tokens: int,
) -> list[list[int]]:
    """The same by transformers, a run an arm, padded on the left where lengths differ."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    said = []
    for arm in arms:
        with hooked(model, arm, materials):
            found = cast(Any, model).generate(
                tokens, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens
            )
        said += found[:, longest:].tolist()
    return said


def scoring(size: Size, kind: str, rounds: int) -> dict[str, Any]:
    """Last-token scores of all arms and prompts, both ways."""
    model, (every, materials) = make_model(size), make_arms(size, kind)
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.2, 0.5, size.prompts), 4, 132).astype(int).tolist()
    prompts = make_prompts(lengths, size.vocabulary)
    answers = rng.integers(1, size.vocabulary, size.prompts).tolist()
    given = [Given(prompt, [answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    resumable = Resumable(model)
    scores: dict[str, np.ndarray] = {}

    def resumed(arms: Sequence[Arm] = every) -> None:
        scores["resumed"] = log_probabilities(resumable, given, arms, materials, TOKEN_BUDGET)

    def naive(arms: Sequence[Arm] = every) -> None:
        scores["naive"] = score_naively(model, prompts, answers, arms, materials)

    resumed(every[:1])
    naive(every[:1])
    seconds = in_turn({"resumed": resumed, "naive": naive}, rounds)
    median = medians(seconds)
    return {
        "arms": len(every),
        "prompts": len(prompts),
        "tokens": sum(lengths),
        **timed(seconds),
        "ratio": median["naive"] / median["resumed"],
        "largest_difference": float(np.abs(scores["naive"] - scores["resumed"]).max()),
    }


@torch.inference_mode()
def score_naively(
    model: PreTrainedModel,
    prompts: list[list[int]],
    answers: list[int],
    arms: Sequence[Arm],
    materials: Materials,
) -> np.ndarray:
    """A whole forward, every position's logits, for each arm."""
    scores = np.zeros((len(arms), len(prompts)))
    batches = plan_batches([len(prompt) for prompt in prompts], TOKEN_BUDGET)
    for number, arm in enumerate(arms):
        with hooked(model, arm, materials):
            for batch in batches:
                tokens = torch.tensor([prompts[i] for i in batch.which])
                last = model(input_ids=tokens).logits[:, -1].log_softmax(dim=-1)
                chosen = torch.tensor([answers[i] for i in batch.which])
                scores[number, batch.which] = last.gather(1, chosen[:, None])[:, 0].numpy()
    return scores


def in_turn(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, round by round; it was warmed up before."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(sides):
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(times) for name, times in seconds.items()}


def timed(seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {"seconds": medians(seconds), "rounds": seconds}


def report(found: dict[str, Any]) -> Iterator[str]:
    """The lines of a report, a table in Markdown among them."""
    yield ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    yield "\n| case | ours | theirs | times | agreement |"
    yield "|---|---|---|---|---|"
    for name in ("decode", "varied"):
        if name in found:
            one = found[name]
            seconds = one["seconds"]
            yield (
                f"| {name}: {one['arms']} arms x {one['prompts']} prompts, {one['tokens']:,} tokens | "
                f"{seconds['shared']:.2f} s | {seconds['separate']:.2f} s | {one['ratio']:.2f} x | "
                f"{one['equal']:.1%} of answers equal |"
            )
    for kind, one in found.get("grid", {}).items():
        seconds = one["seconds"]
        yield (
            f"| grid of a {kind}: {one['arms']} arms x {one['prompts']} prompts | "
            f"{seconds['resumed']:.2f} s | {seconds['naive']:.2f} s | {one['ratio']:.2f} x | "
            f"largest difference {one['largest_difference']:.1e} nats |"
        )
    if "bfloat16" in found:
        one = found["bfloat16"]
        yield (
            f"| bfloat16: {one['answers']} answers, together and alone | | | | "
            f"{one['equal']:.1%} of answers equal |"
        )


if __name__ == "__main__":
    main()
