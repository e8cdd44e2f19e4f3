"""One Ray session, and errors that come back from its workers as what they were.

Inside `ray job submit`, or wherever RAY_ADDRESS names a cluster, this joins it; else it starts a
local Ray of its own and stops it again, whatever else may run on the machine.
"""

import functools
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import numpy as np
import ray
from ray.data import DataContext
from ray.exceptions import RayTaskError

from trimtab.core.errors import TrimtabError

ERROR: Final = "error"
"""The only column of a row that carries an error."""

Work = Callable[[Any, dict[str, np.ndarray]], dict[str, list[Any]]]
"""A method that turns a batch into rows."""


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray is up inside; what was not up before is down again afterwards."""
    ours = not ray.is_initialized()
    if ours:
        address = None if os.environ.get("RAY_ADDRESS") else "local"
        ray.init(address, logging_level=logging.WARNING, include_dashboard=False)
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


def returning_errors(work: Work) -> Work:
    """Makes a worker's method return a `TrimtabError` as a row instead of raising it.

    What a Ray Data worker raises reaches the driver as text inside another exception, and is
    printed on the way; a row of its own reaches it as what it was.
    """

    @functools.wraps(work)
    def guarded(self: object, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        try:
            return work(self, batch)
        except TrimtabError as error:
            return {ERROR: [pickle.dumps(error)]}

    return guarded


def raise_returned(pickled: bytes) -> NoReturn:
    """Raises in the driver what a worker returned."""
    raise pickle.loads(pickled)


@contextmanager
def task_errors() -> Iterator[None]:
    """Turns what Ray raises for a failed task into the error that the task raised.

    Raises:
        TrimtabError: the task met something that the user can mend.
    """
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, TrimtabError):
            raise error.cause from None
        raise
