"""One process at a time: who else wants what is being made is told so, and does not wait.

The lock goes with the process, so one that was killed leaves none behind.
"""

import fcntl
from typing import IO

from trimtab.core.errors import OutputError


def lock(file: IO[bytes], what: str) -> None:
    """Locks an open file until it is closed.

    Args:
        file: closed where it cannot be locked.
        what: what it stands for, as a sentence begins: `The sweep in runs/sweeps/steer-1f`.

    Raises:
        OutputError: another process has locked it, or its file system knows no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise OutputError(
            f"{what} is being run by another process now. Wait for it to end, or stop it and run "
            "the same command again."
        ) from error
    except OSError as error:
        file.close()
        raise OutputError(
            f"{what} cannot be locked against other processes: {error.strerror}. Choose a folder on "
            "a file system that knows locks."
        ) from error
