"""Runs of a store, by what a user calls them: a name, an id, or the beginning of an id.

MLflow does the searching, so that a question costs what it finds and not what the store holds.
"""

import re
from collections.abc import Iterator
from typing import Final

from trimtab.track.mlflow import Found, search_runs

_PARENT: Final = "tags.`mlflow.parentRunId`"
_ID: Final = re.compile(r"[0-9a-f]{6,32}")
"""An id, or so much of its beginning that it means one."""


def runs_named(uri: str, name: str) -> list[Found]:
    """The runs of this name; where there are none, those whose id is or begins so.

    A name with both kinds of quotes in it cannot be asked for, only its run's id.

    Raises:
        TrackError: the store does not answer.
    """
    quote = "'" if "'" not in name else '"'
    if quote in name:  # MLflow knows no escape
        return []
    found = list(search_runs(uri, f"attributes.run_name = {quote}{name}{quote}"))
    if found or not _ID.fullmatch(name):
        return found
    return list(search_runs(uri, f"attributes.run_id LIKE '{name}%'"))


def runs_below(uri: str, run_id: str) -> list[Found]:
    """The runs whose parent a run is.

    Raises:
        TrackError: the store does not answer.
    """
    return list(search_runs(uri, f"{_PARENT} = '{run_id}'"))


def newest_runs(uri: str) -> Iterator[Found]:
    """All runs, the newest first; read as they are taken.

    Raises:
        TrackError: the store does not answer.
    """
    return search_runs(uri, order="DESC")
