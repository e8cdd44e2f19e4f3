"""What an endpoint said, kept on disk under the content hash of what it was asked.

An entry is one small JSON file, written whole or not at all, so that several processes and nodes
may share a folder. It holds the reply and the token counts: no prompt, no key. The reply may quote
an answer, so the folder is as sensitive as the texts, and stays where it is.
"""

import json
import logging
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from trimtab.core.files import finished_file, writable_folder

_log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """One completion of an endpoint."""

    text: str
    """What it said; may be empty."""
    finish: str
    """Why it stopped: `stop`, `length`, `content_filter`, or empty where it does not say."""
    prompt_tokens: int
    """Tokens it read, by its own count; 0 where it does not say."""
    completion_tokens: int
    """Tokens it wrote, likewise."""


_REPLY: Final = TypeAdapter(Reply)


class Cache:
    """A folder of replies."""

    def __init__(self, folder: Path) -> None:
        """Uses a folder, which is made if need be.

        Raises:
            OutputError: it cannot be written to.
        """
        self._folder = writable_folder(folder)

    def get(self, key: str) -> Reply | None:
        """The reply kept under a content hash; None if there is none that can be read."""
        path = self._path(key)
        try:
            return _REPLY.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            _log.warning("the cached reply %s is damaged and is asked for again", path)
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keeps a reply.

        Raises:
            OutputError: the disk is full.
        """
        path = self._path(key)
        with finished_file(path) as temporary:
            path.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(reply._asdict(), ensure_ascii=False), "utf-8")

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
