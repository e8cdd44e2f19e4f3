"""One dimension of a sweep's space: what values a path of the base may take.

grid: [512, 1024]           each of them, crossed with every other grid
range: [0, 2, 0.5]          the same, for low, low + step, ... up to high
choice: [relu, topk]        one of them, drawn
uniform: [0, 1]             a number, drawn evenly
loguniform: [1e-5, 1e-2]    a number, its logarithm drawn evenly
int: [8, 64]                a whole number, both ends included, drawn evenly
"""

import math
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BeforeValidator, Discriminator, Field, FiniteFloat, Tag, model_validator

from trimtab.core.config import Config

_SLACK: Final = 1e-9
"""Of a step: how far rounding may carry the last value of a range over its end."""


def _number(value: object) -> object:
    """YAML 1.1 reads 1e-4 (no dot) as a word; here it is the number that was meant."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Value = Annotated[Any, BeforeValidator(_number)]


class _Ends(Config):
    """A pair (low, high)."""

    @model_validator(mode="after")
    def _low_is_not_above_high(self) -> "_Ends":
        ((name, (low, high, *_)),) = self.__dict__.items()
        if low > high:
            raise ValueError(f"`low <= high` must hold, but `{name}` is [{low}, {high}]")
        return self


class Grid(Config):
    """Values to cross with every other grid."""

    grid: tuple[Value, ...] = Field(min_length=1)
    """The values."""

    @property
    def values(self) -> tuple[Any, ...]:
        """All of them."""
        return self.grid


class Range(_Ends):
    """Evenly spaced values to cross with every other grid."""

    range: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    """Low, high (included where a step meets it), step."""

    @model_validator(mode="after")
    def _steps_forward(self) -> "Range":
        if self.range[2] <= 0:
            raise ValueError(f"`step > 0` must hold, but `range` is {list(self.range)}")
        return self

    @property
    def values(self) -> tuple[float | int, ...]:
        """All of them; whole numbers where low and step are."""
        low, high, step = self.range
        count = math.floor((high - low) / step + _SLACK) + 1
        found = [low + step * i for i in range(count)]
        return tuple(int(v) if low.is_integer() and step.is_integer() else v for v in found)


class Choice(Config):
    """One of some values."""

    choice: tuple[Value, ...] = Field(min_length=1)
    """The values."""

    def draw(self, generator: np.random.Generator) -> Any:  # noqa: ANN401 (as the file says)
        """One of them, each as likely as the other."""
        return self.choice[int(generator.integers(len(self.choice)))]


class Uniform(_Ends):
    """A number between two ends."""

    uniform: tuple[FiniteFloat, FiniteFloat]
    """Low and high."""

    def draw(self, generator: np.random.Generator) -> float:
        """Evenly between them."""
        return float(generator.uniform(*self.uniform))


class LogUniform(_Ends):
    """A positive number between two ends, on a logarithmic scale."""

    loguniform: tuple[FiniteFloat, FiniteFloat]
    """Low and high, both above 0."""

    @model_validator(mode="after")
    def _positive(self) -> "LogUniform":
        if self.loguniform[0] <= 0:
            raise ValueError(f"`low > 0` must hold, but `loguniform` is {list(self.loguniform)}")
        return self

    def draw(self, generator: np.random.Generator) -> float:
        """Its logarithm evenly between theirs."""
        low, high = self.loguniform
        return float(np.exp(generator.uniform(np.log(low), np.log(high))))


class Integer(_Ends):
    """A whole number between two ends."""

    int: tuple[int, int]
    """Low and high, both included."""

    def draw(self, generator: np.random.Generator) -> Any:  # noqa: ANN401 (`int` is a field here)
        """Any of them, each as likely as the other."""
        low, high = self.int
        return generator.integers(low, high, endpoint=True).item()


def _tag(value: object) -> str | None:
    keys = list(value) if isinstance(value, dict) else list(getattr(value, "model_fields_set", ()))
    return keys[0] if len(keys) == 1 else None


Axis = Annotated[
    Annotated[Grid, Tag("grid")]
    | Annotated[Range, Tag("range")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[Integer, Tag("int")],
    Discriminator(
        _tag,
        custom_error_type="axis",
        custom_error_message="must be one of `grid`, `range`, `choice`, `uniform`, `loguniform`, "
        "`int`, and only one, like `{grid: [1, 2]}`",
    ),
]
Listed = Grid | Range
"""Axes whose values are all known."""
Drawn = Choice | Uniform | LogUniform | Integer
"""Axes that a value is drawn from."""
