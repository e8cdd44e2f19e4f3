"""A plan in words: why it is what it is, what was not done, and what is missing where nothing fits."""

from typing import Final

from trimtab.models.fits import Fit, Question, cards_needed, memory, smallest_need
from trimtab.models.parts import RESIDENT_ONLY

_GB: Final = 1e9
_NAMES: Final = {"nf4": "NF4", "mxfp4": "MXFP4"}


def why(question: Question, found: Fit) -> str:
    """One sentence with the numbers, and the alternative that was not taken."""
    published = question.precision == question.weights.published
    held = f"{_NAMES.get(question.precision, question.precision)} "
    held += "as published" if published else "as asked, not exact"
    whole = gigabytes(question.weights.parts.bytes_in(question.precision))
    there = _place(question, found.way.cards)
    total = gigabytes(found.need.total)
    if found.way.source == "streamed":
        reason = "as asked" if question.source == "streamed" else _resident(question)
        return f"{held}, {reason}: {whole} stream block by block through {total} of {there}"
    fitting = f"{held}: {whole} of weights, {total} in all, fit {there}"
    if found.way.cards > 1:
        fitting = f"{held}: {whole} of weights, {total} on {there}"
    if not published:
        exact = question._replace(precision=question.weights.published)
        return f"{fitting}; exact and {_resident(exact)}"
    if question.precision == "mxfp4":
        return (
            f"{fitting}; dequantised to bf16 and {_resident(question._replace(precision='bf16'))}"
        )
    return fitting


def too_large(question: Question, name: str) -> str:
    """What a model that fits in no way would need, and the ways out."""
    weights, machine, cards = question.weights, question.machine, question.num_gpus
    streams = question.precision not in RESIDENT_ONLY
    needs, ways_out = [], ["a larger GPU" if machine.gpu else "more memory"]
    if question.source != "streamed":
        size = gigabytes(weights.parts.bytes_in(question.precision))
        needs.append(f"its {size} in {question.precision} do not: {_resident(question)}")
        if question.source == "resident" or not streams:
            ways_out.append("the published precision, streamed (exact, any size)")
    if question.source != "resident" and streams:
        least = gigabytes(smallest_need(question, "streamed"))
        needs.append(f"streamed it would take at least {least} in one place")
    nodes = f", {machine.gpus_per_node} to a node" if machine.gpu and cards is None else ""
    return (
        f"{name} must fit {_place(question, 1.0 if cards is None else cards)}{nodes}, but "
        f"{', and '.join(needs)}. Use {' or '.join(ways_out)}."
    )


def gigabytes(size: int) -> str:
    """Bytes in words: `5.7 GB`, `470 GB`."""
    return f"{size / _GB:,.1f} GB" if size < 100 * _GB else f"{size / _GB:,.0f} GB"


def _resident(question: Question) -> str:
    """What holding all of it would take."""
    if question.machine.gpu is None or question.num_gpus == 0:
        return f"resident it would take {gigabytes(smallest_need(question, 'resident'))}"
    cards = cards_needed(question)
    if cards is None:
        return "resident it fits no number of GPUs"
    return f"resident it would take {cards} {question.machine.gpu.kind}"


def _place(question: Question, cards: float) -> str:
    machine = question.machine
    size = gigabytes(memory(machine, cards))
    if machine.gpu is None or cards == 0:
        return f"the host's {size}"
    if cards < 1:
        return f"1/{round(1 / cards)} of one {machine.gpu.kind} ({size})"
    number = "one" if cards == 1 else f"each of {cards:g}"
    return f"{number} {machine.gpu.kind} ({size})"
