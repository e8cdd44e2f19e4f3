"""One process at a time: who else wants what is being made is told so, or waits where that is short.

A lock goes with its process, so one that was killed leaves none behind.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trimtab.core.errors import OutputError


@contextmanager
def locked(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Holds a lock that is a file of its own, made if need be and never deleted.

    Args:
        path: the file, in a folder that is there.
        what: see `lock`.
        wait: see `lock`.

    Raises:
        OutputError: as `lock`, or the file cannot be opened.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise _cannot(what, error) from error
    with file:
        lock(file, what, wait=wait)
        yield


def lock(file: IO[bytes], what: str, *, wait: bool = False) -> None:
    """Locks an open file until it is closed.

    Args:
        file: closed where it cannot be locked.
        what: what it stands for, as a sentence begins: `The sweep in runs/sweeps/steer-1f`.
        wait: until nobody else has it.

    Raises:
        OutputError: another process has locked it, or its file system knows no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        file.close()
        raise OutputError(
            f"{what} is being run by another process now. Wait for it to end, or stop it and run "
            "the same command again."
        ) from error
    except OSError as error:
        file.close()
        raise _cannot(what, error) from error


def _cannot(what: str, error: OSError) -> OutputError:
    return OutputError(
        f"{what} cannot be locked against other processes: {error.strerror}. Choose a folder of your "
        "own, on a file system that knows locks."
    )
