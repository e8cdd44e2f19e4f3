"""Which ways to run a model fit a machine, in the order in which they are preferred.

A way is a source of blocks, cards of a replica and a token budget. What does not fit at the budget
asked for is tried with half of it, as the engine itself does when memory runs out: a smaller batch
is a little slower, a second card or a streamed checkpoint a lot.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from trimtab.models.cost import (
    RESIDENT_BLOCK,
    Need,
    Source,
    Work,
    block_tokens,
    hidden_bytes,
    need,
)
from trimtab.models.hardware import MARGIN, Machine
from trimtab.models.parts import RESIDENT_ONLY, Precision
from trimtab.models.weights import Weights

SHARES: Final = (0.125, 0.25, 0.5, 1.0)
"""Of a card, that a replica may take."""
SMALLEST_BUDGET: Final = 1_024
"""A token budget is not halved below this to make a model fit."""
_FEWEST_PROMPTS: Final = 256
"""A streamed model that cannot hold this many prompts' states would read its weights too often."""
_MOST_CARDS: Final = 1_024


class Question(NamedTuple):
    """A model, what it is asked, and what was said of how."""

    weights: Weights
    """The model."""
    work: Work
    """What it reads."""
    machine: Machine
    """What there is."""
    precision: Precision
    """What its weights are held in."""
    source: str
    """`auto`, or the one that must be."""
    num_gpus: float | None
    """Cards of a replica; None decides."""


class Way(NamedTuple):
    """One way to run it."""

    source: Source
    """Where its blocks come from."""
    cards: float
    """A share of a card, or whole cards; 0 is the CPU."""
    token_budget: int
    """Most tokens of one batch."""


class Fit(NamedTuple):
    """A way that fits."""

    way: Way
    """Which one."""
    block_prompts: int
    """Prompts whose hidden states are held at once."""
    hidden_bytes: int
    """Bytes of those, wherever they are held."""
    need: Need
    """Bytes on each card, or in host memory."""


def ways(question: Question) -> Iterator[Way]:
    """All that may be tried, preferred first."""
    if question.source != "streamed":
        for cards in _sizes(question):
            whole = cards >= 1 or cards in (0, question.num_gpus)
            for budget in _budgets(question.work) if whole else [question.work.token_budget]:
                yield Way("resident", cards, budget)
    if question.source != "resident" and question.precision not in RESIDENT_ONLY:
        one = 0.0 if question.machine.gpu is None else 1.0
        for budget in _budgets(question.work):
            yield Way("streamed", one if question.num_gpus is None else question.num_gpus, budget)


def fit(question: Question, way: Way) -> Fit | None:
    """What a way needs, if that is there."""
    weights, work = question.weights, question.work
    capacity = memory(question.machine, way.cards)
    prompts = work.block_prompts or (
        RESIDENT_BLOCK if way.source == "resident" else max(1, work.prompts)
    )
    states = on_card = hidden_bytes(weights, block_tokens(work, prompts))
    if way.source == "streamed":
        left = max(0, int((capacity - _need(question, way, 0).total) / MARGIN))
        if work.block_prompts is None and states > left:
            prompts = prompts * left // (2 * states)
            if prompts < _FEWEST_PROMPTS:
                return None
            states = hidden_bytes(weights, block_tokens(work, prompts))
        on_card = min(states, left)  # of a block that was asked for, the rest stays on the host
    found = _need(question, way, on_card)
    if found.total > capacity:
        return None
    return Fit(way, min(prompts, max(1, work.prompts)), states, found)


def memory(machine: Machine, cards: float) -> int:
    """Bytes of a card, of a share of it, or of the host."""
    if machine.gpu is None or cards == 0:
        return machine.host_bytes
    return int(machine.gpu.memory * min(1.0, cards))


def cards_needed(question: Question) -> int | None:
    """Fewest whole cards, of however large a node, that hold the model; None if none do."""
    for cards in range(1, _MOST_CARDS):
        for budget in _budgets(question.work):
            if fit(question, Way("resident", float(cards), budget)) is not None:
                return cards
    return None


def smallest_need(question: Question, source: Source) -> int:
    """Bytes that one replica needs in one place, at the smallest token budget."""
    budget = _budgets(question.work)[-1]
    return _need(question, Way(source, 0.0, budget), 0).total


def _need(question: Question, way: Way, hidden: int) -> Need:
    return need(
        question.weights,
        question.work,
        question.precision,
        way.source,
        num_cards=max(1, int(way.cards)),
        token_budget=way.token_budget,
        hidden=hidden,
    )


def _budgets(work: Work) -> list[int]:
    found = [work.token_budget]
    while found[-1] // 2 >= max(SMALLEST_BUDGET, work.longest):
        found.append(found[-1] // 2)
    return found


def _sizes(question: Question) -> list[float]:
    if question.num_gpus is not None:
        return [question.num_gpus]
    if question.machine.gpu is None:
        return [0.0]
    many = question.precision in RESIDENT_ONLY or question.source == "resident"
    more = range(2, question.machine.gpus_per_node + 1) if many else ()
    return [*SHARES, *map(float, more)]
