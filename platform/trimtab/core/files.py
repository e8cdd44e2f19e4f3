"""Files that are either finished or not there.

Every result is written to a temporary sibling and renamed into place, so that a full disk or a
killed process never leaves something half-written under a finished name.
"""

import errno
import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.core.errors import OutputError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def writable_folder(path: Path) -> Path:
    """Makes the folder (and its parents) and proves that it can be written to.

    Raises:
        OutputError: the path is a file, or cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(
            f"The output folder must be writable, but {path} is not: {error.strerror}. "
            "Choose another folder or change its permissions."
        ) from error
    return path


@contextmanager
def finished_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path; renames it to `path` if the block succeeds, deletes it if not.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise OutputError(
            f"{path} could not be written: {error.strerror or error}. "
            "Free some disk space or choose another folder, and run the same command again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Writes indented JSON, finished or not at all."""
    with finished_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
