"""A fold: a statistic that can be computed piecewise, anywhere, and merged.

One piece of glue (`trimtab.stream.fold`) runs every fold on one core or on a thousand, because
a fold promises:

    merge(update(zero, a), update(zero, b)) = update(update(zero, a), b)     (same rows, same value)
    merge(a, b) = merge(b, a),   merge(a, merge(b, c)) = merge(merge(a, b), c)

up to float64 rounding (tests: 1e-12 relative). States are frozen dataclasses of arrays, so they
pickle, and updating returns a new one.
"""

from typing import Protocol, TypeVar, runtime_checkable

from trimtab.core.rows import Rows

State = TypeVar("State")
Result_co = TypeVar("Result_co", covariant=True)


@runtime_checkable
class Fold(Protocol[State, Result_co]):
    """A statistic of one layer's rows."""

    def zero(self) -> State:
        """The state of no rows."""
        ...

    def update(self, state: State, rows: Rows) -> State:
        """The state after also seeing `rows`."""
        ...

    def merge(self, a: State, b: State) -> State:
        """The state of the rows of both."""
        ...

    def finish(self, state: State) -> Result_co:
        """The statistic itself."""
        ...
