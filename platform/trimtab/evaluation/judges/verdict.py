"""What a judge is given and what it says.

A case is a question with one answer (to be scored) or two (to be compared, in the order they are
shown). A verdict is one of the rubric's labels, or a failure with its reason. A failure is never a
low score and never a tie: whoever counts, counts it apart.

Of a model that thinks before it answers, the judge reads the answer: what stands after the last
`</think>`. Thoughts that were never closed are followed by no answer.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

from trimtab.evaluation.judges.rubric import Rubric

THINKS: Final = "<think>"
"""What opens the thoughts of a model that writes them down."""
THOUGHT: Final = "</think>"


class Case(NamedTuple):
    """One thing to be judged."""

    question: str
    """What was asked."""
    answers: tuple[str, ...]
    """One answer to score, or two to compare, the first one shown first."""
    reference: str = ""
    """What a right answer says, where that is known; only rules read it."""


class Verdict(NamedTuple):
    """What a judge says of a case."""

    value: float
    """The score, or for a pair above 0 where the first answer is better and below 0 where the
    second is. A judge that is read at its tokens gives the expected value; NaN if it failed."""
    label: str
    """The rubric's label that was said, or is most likely; empty if the judge failed."""
    raw: str
    """What the judge said, word for word (a local judge: its probabilities). May quote the answer,
    so it is as sensitive as the texts."""
    failed: str | None = None
    """Why there is no verdict, in words that quote no text; None if there is one."""


@runtime_checkable
class Judge(Protocol):
    """A judge of any kind."""

    def identity(self) -> dict[str, str]:
        """What names this judge in a table and in a hash: kind, model, settings; no secret."""
        ...

    def judge(self, rubric: Rubric, cases: Sequence[Case]) -> list[Verdict]:
        """A verdict for each case, in order; a case that cannot be judged is a failed verdict.

        Raises:
            JudgeError: the judge as a whole cannot be asked.
        """
        ...


def failure(reason: str, raw: str = "") -> Verdict:
    """A verdict that is none."""
    return Verdict(math.nan, "", raw, reason)


def spoken(text: str) -> str:
    """An answer without its thoughts; empty where it was cut off in them."""
    _, closed, answer = text.rpartition(THOUGHT)
    if closed:
        return answer.strip()
    return "" if answer.lstrip().startswith(THINKS) else answer
