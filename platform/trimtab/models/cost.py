"""What a forward over many short prompts needs and costs: bytes on a card, bytes read, seconds.

Pure arithmetic on what a model weighs. Seconds are the larger of two bounds, matrix products at the
rate reached and weights through memory once a batch, plus reading the checkpoint; they know nothing
of Ray, of tokenising or of the measures. Activations are an estimate from the widths of a block.

DESIGN 5.5; LOADING 3.
"""

from typing import Final, Literal, NamedTuple

from trimtab.models.hardware import (
    BANDWIDTH_EFFICIENCY,
    COMPUTE_EFFICIENCY,
    CONTEXT_BYTES,
    CPU_BANDWIDTH,
    CPU_FLOPS,
    MARGIN,
    Machine,
)
from trimtab.models.parts import PACKED, Precision
from trimtab.models.weights import Weights

Source = Literal["resident", "streamed"]

LONGEST_BLOCK: Final = 2
"""Blocks of prompts are cut by length: the last one has about twice the tokens of the average."""
RESIDENT_BLOCK: Final = 2_048
"""Prompts of a block where nothing else is said and the model stays in memory."""


class Work(NamedTuple):
    """What a model is asked to read."""

    prompts: int
    """Distinct prompts."""
    tokens: int
    """Tokens of all of them."""
    rows: int
    """Scenarios that ask them."""
    layers: tuple[int, ...] | None = None
    """Layers that are pooled; None is every one."""
    pooled_bytes: int = 2
    """Bytes of a stored value."""
    token_budget: int = 16_384
    """Most tokens of one batch."""
    block_prompts: int | None = None
    """Prompts whose hidden states are held at once. None is 2,048 for a resident model and as many
    as fit for a streamed one, whose weights pass once per block of prompts."""
    longest: int = 128
    """Most tokens of one prompt."""
    beside: int = 0
    """Bytes that each card holds besides the model: coders that are put on it."""


class Need(NamedTuple):
    """Bytes of one replica, on each of its cards."""

    weights: int
    """Held all the time."""
    dequantised: int
    """One block's experts in 16 bits, where they are packed."""
    activations: int
    """One batch inside a block."""
    hidden: int
    """Hidden states of a block of prompts."""
    beside: int
    """Coders that are put on the model."""

    @property
    def total(self) -> int:
        """With what the process itself takes, and the margin."""
        return round(MARGIN * (sum(self) + CONTEXT_BYTES))


def need(
    weights: Weights,
    work: Work,
    precision: Precision,
    source: Source,
    *,
    num_cards: int,
    token_budget: int,
    hidden: int,
) -> Need:
    """What each card (or the host) must hold.

    Args:
        weights: the model.
        work: what it reads.
        precision: what weights are held in.
        source: where its blocks come from.
        num_cards: whole cards that a resident model is spread over.
        token_budget: most tokens of one batch.
        hidden: bytes of hidden states beside it.
    """
    packed = precision in PACKED and source == "resident"
    if source == "streamed":
        held = 2 * weights.largest_block.bytes_in(wide(weights)) + embedding_bytes(weights)
    else:
        held = weights.parts.bytes_in(precision) // num_cards
        if num_cards > 1:  # cut between blocks, never inside one
            held += weights.largest_block.bytes_in(precision)
    tokens = min(token_budget, work.tokens)
    return Need(
        weights=held,
        dequantised=2 * weights.largest_block.experts if packed else 0,
        activations=weights.activation_bytes(tokens, work.longest),
        hidden=hidden,
        beside=work.beside,
    )


def wide(weights: Weights) -> Precision:
    """What a streamed block is in once it is read: experts in MXFP4 are unpacked."""
    return "bf16" if weights.published in ("mxfp4", "fp16", "int8") else weights.published


def embedding_bytes(weights: Weights) -> int:
    """Bytes of the token embedding."""
    return weights.token_embedding * (4 if weights.published == "float32" else 2)


def hidden_bytes(weights: Weights, tokens: int) -> int:
    """Bytes of the hidden states of so many tokens."""
    return tokens * weights.d_model * (4 if weights.published == "float32" else 2)


def block_tokens(work: Work, block_prompts: int) -> int:
    """Most tokens of a block of prompts."""
    share = LONGEST_BLOCK * work.tokens * block_prompts // max(1, work.prompts)
    return min(work.tokens, share)


def depth(weights: Weights, work: Work) -> float:
    """Share of the blocks that run: up to the deepest layer asked for."""
    return 1.0 if work.layers is None else (max(work.layers) + 1) / weights.num_layers


def store_bytes(weights: Weights, work: Work) -> int:
    """Bytes of pooled rows, one per distinct prompt and layer."""
    layers = weights.num_layers if work.layers is None else len(work.layers)
    return work.prompts * layers * weights.d_model * work.pooled_bytes


def pass_bytes(weights: Weights, work: Work, source: Source) -> int:
    """Bytes read of the checkpoint: all of it, or the embedding and the blocks that run, once."""
    if source == "resident":
        return weights.parts.bytes_in(weights.published)
    blocks = _block_bytes(weights, weights.published)
    return embedding_bytes(weights) + round(blocks * depth(weights, work))


def compute_seconds(
    weights: Weights, work: Work, precision: Precision, machine: Machine, *, batches: int
) -> float:
    """Seconds on one card (or the host), reading weights apart.

    Args:
        weights: the model.
        work: what it reads.
        precision: what weights are held in.
        machine: whose card.
        batches: how often all blocks are passed through.
    """
    flops = work.tokens * weights.flops_per_token
    traffic = batches * (_block_bytes(weights, precision) + 4 * _unpacked(weights, precision))
    if machine.gpu is None:
        rate, bandwidth = CPU_FLOPS * machine.cores, CPU_BANDWIDTH
    else:
        rate = machine.gpu.flops * COMPUTE_EFFICIENCY
        bandwidth = machine.gpu.bandwidth * BANDWIDTH_EFFICIENCY
    return depth(weights, work) * max(flops / rate, traffic / bandwidth)


def _block_bytes(weights: Weights, precision: Precision) -> int:
    return weights.parts._replace(embedding=0).bytes_in(precision)


def _unpacked(weights: Weights, precision: Precision) -> int:
    """Weights that are written in 16 bits and read again in each batch."""
    linear = weights.parts.linear if precision == "nf4" else 0
    return weights.parts.experts + linear if precision in PACKED else 0
