"""Rubrics are files: what a judge is asked, and which labels it may answer with.

A rubric is a YAML file: the question to the judge with places for `{question}` and `{answer}` (or
`{first}` and `{second}`), and its labels with their values. Those that come with the package are
in `trimtab/evaluation/rubrics`, written from METHODS 1.9; a path names one of the user's own.

A reply is read strictly: its last line must be a label and nothing else (`3`, `**3**`,
`Verdict: 3`). A judge that says anything more on that line, or stops early, has failed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from trimtab.core.config import Config, build, read_yaml
from trimtab.core.errors import JudgeError

PACKAGED: Final = Path(__file__).parents[1] / "rubrics"
PLACES: Final = {"score": ("question", "answer"), "pair": ("question", "first", "second")}

_PLACE = re.compile(r"\{(\w+)\}")
_LEAD = r"(?:\W*(?:the|my|verdict|score|grade|rating|answer|is)\b)*\W*"
"""What may stand before a label on its line."""


class Rubric(Config):
    """What a judge is asked."""

    kind: Literal["score", "pair"]
    """Whether it scores one answer or compares two."""
    labels: Annotated[dict[str, float], Field(min_length=2)]
    """What the judge may say, one token each, and what it is worth. In a pair: above 0 where the
    first answer is better, below 0 where the second is, 0 where neither is."""
    prompt: str
    """The message to the judge, with a place for each text."""

    @model_validator(mode="after")
    def _places_and_labels(self) -> "Rubric":
        places, wanted = set(_PLACE.findall(self.prompt)), set(PLACES[self.kind])
        if places != wanted:
            raise ValueError(
                f"a {self.kind} rubric's prompt must have the places {sorted(wanted)} in braces, "
                f"but has {sorted(places)}"
            )
        if any(label != label.strip() or not label for label in self.labels):
            raise ValueError(f"labels must be words without spaces, but are {list(self.labels)}")
        if self.kind == "pair" and not min(self.labels.values()) < 0 < max(self.labels.values()):
            raise ValueError("a pair rubric needs a label above 0 (first) and one below 0 (second)")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return min(self.labels.values()), max(self.labels.values())

    def message(self, question: str, answers: tuple[str, ...]) -> str:
        """The message about a case. Texts are put in once: braces inside them stay as they are."""
        places = PLACES[self.kind]
        assert len(answers) == len(places) - 1, f"{self.kind} rubric, {len(answers)} answers"
        texts = dict(zip(places, (question, *answers), strict=True))
        return _PLACE.sub(lambda place: texts[place[1]], self.prompt)

    def read(self, reply: str) -> str | None:
        """The label that a reply ends with; None if its last line is not exactly a label."""
        lines = [line for line in reply.strip().splitlines() if line.strip()]
        if not lines:
            return None
        labels = "|".join(re.escape(label) for label in self.labels)
        found = re.fullmatch(rf"{_LEAD}(?P<label>(?-i:{labels}))[\W_]*", lines[-1], re.IGNORECASE)
        return found["label"] if found else None


def load_rubric(name: str) -> Rubric:
    """A packaged rubric by its name, or any rubric by the path of its YAML file.

    Raises:
        JudgeError: there is neither a packaged rubric nor a file of that name.
        ConfigError: the file is not a rubric.
    """
    packaged = PACKAGED / f"{name}.yaml"
    path = packaged if packaged.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PACKAGED.glob("*.yaml")))
        raise JudgeError(
            f"A rubric must be one of {known}, or the path of a YAML file, but {name!r} is neither."
        )
    return build(Rubric, read_yaml(path), where=str(path))


def label_nearest(labels: Mapping[str, float], value: float) -> str:
    """The label whose value is nearest; of two as near, the one that comes first."""
    return min(labels, key=lambda label: abs(labels[label] - value))
