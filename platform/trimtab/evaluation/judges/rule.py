"""A deterministic judge: patterns give a text a grade, and grades are compared.

With a `span`, a case must carry a reference: the score falls in a straight line from the rubric's
best, where answer and reference have the same grade, to its worst, where they are `span` or more
grades apart. Without a `span` the answer's own grade is its score. An answer that no pattern knows
earns the worst score (it did not say what was asked); a reference that none knows is a failure.

For tests and for the nursery, whose questions have right answers. It sees words, not meaning.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, FiniteFloat, PositiveFloat, field_validator

from trimtab.core.config import Config, build, read_yaml
from trimtab.core.errors import JudgeError
from trimtab.evaluation.judges.rubric import Rubric, label_nearest
from trimtab.evaluation.judges.verdict import Case, Verdict, failure

PACKAGED: Final = Path(__file__).parents[1] / "rules"


class Grade(Config):
    """One pattern and its grade."""

    pattern: str
    """A regular expression, searched in the text; case does not matter."""
    grade: FiniteFloat
    """What a text that has it is given."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from error
        return pattern


class Rules(Config):
    """What a file of rules says."""

    grades: Annotated[tuple[Grade, ...], Field(min_length=1)]
    """The first pattern that is found decides."""
    span: PositiveFloat | None = None
    """How many grades from the reference earn the worst score; None if grades are scores."""

    def grade(self, text: str) -> float | None:
        """The grade of a text; None if no pattern is in it."""
        found = (g.grade for g in self.grades if re.search(g.pattern, text, re.IGNORECASE))
        return next(found, None)


class RuleJudgeConfig(Config):
    """A judge by rules."""

    kind: Literal["rule"] = "rule"
    """Says that this is a rule judge."""
    rules: str = "verdict"
    """A packaged file of rules by its name, or the path of one's own."""


def load_rules(name: str) -> Rules:
    """Packaged rules by their name, or any by the path of their YAML file.

    Raises:
        JudgeError: there is no such file.
        ConfigError: the file does not hold rules.
    """
    packaged = PACKAGED / f"{name}.yaml"
    path = packaged if packaged.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PACKAGED.glob("*.yaml")))
        raise JudgeError(
            f"Rules must be one of {known}, or the path of a YAML file, but {name!r} is neither."
        )
    return build(Rules, read_yaml(path), where=str(path))


class RuleJudge:
    """See `verdict.Judge`; says the same thing every time."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def identity(self) -> dict[str, str]:
        """See `Judge`."""
        return {"kind": "rule", "rules": self._rules.hash}

    def judge(self, rubric: Rubric, cases: Sequence[Case]) -> list[Verdict]:
        """See `Judge`. In a pair, the answer with the higher score is the better one."""
        return [self._verdict(rubric, case) for case in cases]

    def _verdict(self, rubric: Rubric, case: Case) -> Verdict:
        wanted = None if self._rules.span is None else self._rules.grade(case.reference)
        if self._rules.span is not None and wanted is None:
            return failure("no rule knows the reference")
        if rubric.kind == "score":
            value = self._score(case.answers[0], wanted, *rubric.range)
        else:
            first, second = (self._merit(answer, wanted) for answer in case.answers)
            value = float((first > second) - (first < second))
        return Verdict(value, label_nearest(rubric.labels, value), f"{value:g}")

    def _score(self, answer: str, wanted: float | None, worst: float, best: float) -> float:
        if wanted is None:
            return min(max(self._merit(answer, None), worst), best)
        return best + (best - worst) * max(-1.0, self._merit(answer, wanted))

    def _merit(self, answer: str, wanted: float | None) -> float:
        """How good an answer is: its grade, or minus its distance from the wanted one in spans."""
        grade = self._rules.grade(answer)
        if grade is None:
            return -math.inf
        if wanted is None or self._rules.span is None:
            return grade
        return -abs(grade - wanted) / self._rules.span
