"""Locks: one holder at a time, and a clear error for the other."""

from pathlib import Path

import pytest

from trimtab.core.errors import OutputError
from trimtab.core.lock import locked


def test_what_is_held_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with (
        locked(path, "The thing"),
        pytest.raises(OutputError, match="The thing is being run by another process"),
        locked(path, "The thing"),
    ):
        pass
    with locked(path, "The thing"):
        pass


def test_a_lock_that_cannot_be_made_is_an_error_that_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"The thing cannot be locked.*Is a directory"),
        locked(tmp_path, "The thing"),
    ):
        pass
