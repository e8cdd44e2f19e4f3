"""Content hashes: an artifact's folder is named by what made it.

Same hash and finished means skip, which is how every job resumes. Hashes are SHA-256 over a
canonical JSON form, so that they do not depend on key order, platform or Python's own `hash`.
"""

import hashlib
import json
from pathlib import Path

SHORT = 16
"""Hex digits of a hash used in folder names: 64 bits."""


def content_hash(value: object) -> str:
    """Hash of anything that JSON can write (pydantic records: `.model_dump(mode="json")`).

    Raises:
        TypeError: the value holds something JSON cannot write.
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:SHORT]


def file_hash(path: Path) -> str:
    """Full SHA-256 of a file's bytes, in hex; about 1 GB/s."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
