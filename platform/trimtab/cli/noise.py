"""Turns off what others say about themselves, so that what is said can be read.

`quiet` must run before ray, torch and transformers are imported, because they read their
environment variables then. `clean_streams` is for the time that a driver runs.
"""

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Final

from rich.logging import RichHandler

from trimtab.cli.console import ERR

_ENVIRONMENT: Final = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
_CHATTY: Final = (
    "alembic",
    "httpx",
    "huggingface_hub",
    "ray._private.authentication",
    "ray.data._internal.progress",
)
_LOG_LEVEL: Final = "RAY_BACKEND_LOG_LEVEL"
_CORE_NOISE: Final = re.compile(rb"has constructor arguments in the object store")
"""Ray's C++ core says so of every actor pool of Ray Data (ray issue 53727)."""


def quiet() -> None:
    """Shows warnings on stderr, and only warnings.

    A variable that the user has set is left as it is.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    handler = RichHandler(console=ERR, show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.captureWarnings(capture=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def clean_streams(*, result_only: bool) -> Iterator[None]:
    """Keeps noise of Ray's core off stderr and, if asked, all but the result off stdout.

    Args:
        result_only: what is printed meanwhile (Ray prints what its workers print) goes to stderr.
    """
    with (
        _core_filtered(),
        contextlib.redirect_stdout(sys.stderr) if result_only else contextlib.nullcontext(),
    ):
        yield


@contextlib.contextmanager
def _core_filtered() -> Iterator[None]:
    """Filters file descriptor 2 by line, and gives Python's own stderr a way around the filter.

    The core's only other switch silences its log files too, and announces itself in a line of its
    own. Whoever sets it wants to see the core's log: then nothing is filtered.
    """
    if sys.stderr is not sys.__stderr__ or _LOG_LEVEL in os.environ:
        yield
        return
    real = os.dup(2)
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    pump = threading.Thread(target=pump_lines, args=(read, real), daemon=True)
    pump.start()
    with os.fdopen(real, "w", buffering=1) as around, contextlib.redirect_stderr(around):
        try:
            yield
        finally:
            os.dup2(real, 2)
            pump.join(timeout=1.0)


def pump_lines(read: int, write: int) -> None:
    """Copies lines from one file descriptor to another until the end, without Ray's noise."""
    with os.fdopen(read, "rb") as lines:
        for line in lines:
            if not _CORE_NOISE.search(line):
                os.write(write, line)
