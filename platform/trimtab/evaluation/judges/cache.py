"""What an endpoint said, kept on disk under the content hash of what it was asked.

An entry is one small JSON file, written whole or not at all, so that several processes and nodes
may share a folder. It holds the reply and the token counts: no prompt, no key. The reply may quote
an answer, so the folder is as sensitive as the texts, and stays where it is.
"""

import json
import logging
from pathlib import Path
from typing import NamedTuple

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
            return Reply(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            _log.warning("the cached reply %s is damaged and is asked for again", path)
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keeps a reply.

        Raises:
            OutputError: the disk is full.
        """
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        with finished_file(path) as temporary:
            temporary.write_text(json.dumps(reply._asdict(), ensure_ascii=False), "utf-8")

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
