"""One Ray session, and errors that come back from its workers as what they were.

Inside `ray job submit` or beside a running cluster this joins it; else it starts a local Ray and
stops it again.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.data import DataContext
from ray.exceptions import RayError, RayTaskError

from trimtab.core.errors import TrimtabError


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray is up inside; what was not up before is down again afterwards."""
    ours = not ray.is_initialized()
    if ours:
        ray.init(logging_level=logging.WARNING, include_dashboard=False)
    try:
        with _quiet_data():
            yield
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _quiet_data() -> Iterator[None]:
    """Ray Data in the order given, with our progress instead of its own."""
    context = DataContext.get_current()
    before = context.enable_progress_bars, context.execution_options.preserve_order
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        context.enable_progress_bars, context.execution_options.preserve_order = before


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turns what Ray raises for a failed worker into the error that the worker raised.

    Raises:
        TrimtabError: the worker met something that the user can mend.
    """
    try:
        yield
    except RayError as error:
        cause = _ours(error)
        if cause is None:
            raise
        raise cause from None


def _ours(error: BaseException | None) -> TrimtabError | None:
    while error is not None:
        if isinstance(error, RayTaskError):
            error = error.cause
        if isinstance(error, TrimtabError):
            return type(error)(str(error.args[0]) if error.args else str(error))
        error = error.__cause__ if error is not None else None
    return None
