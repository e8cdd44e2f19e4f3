"""The files of a model folder, without a model: what tells two apart, and what one lacks."""

import hashlib
import re
from pathlib import Path
from typing import Final

from safetensors import safe_open

from trimtab.core.hashing import SHORT

_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 65_536
_EXPERT: Final = re.compile(r"(?P<before>.*\.experts\.)(?P<number>\d+)(?P<after>\..*)")


def fingerprint(folder: Path) -> str:
    """Content hash of a model folder: small files whole, weights by size and 64 samples each.

    Hashing 470 GB of weights would take longer than running them; two checkpoints that agree in
    size and in every sample but differ elsewhere are told apart by nothing here.
    """
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".bin")
    ):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for sample in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:SHORT]


def missing_expert(folder: Path) -> str | None:
    """The first tensor that one expert lacks and another has; None where all have the same."""
    keys: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            keys.update(file.keys())
    found = [match for key in sorted(keys) if (match := _EXPERT.fullmatch(key))]
    numbers = sorted({int(match["number"]) for match in found})
    for match in found:
        for number in numbers:
            other = f"{match['before']}{number}{match['after']}"
            if other not in keys:
                return other
    return None
