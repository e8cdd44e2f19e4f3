"""Random numbers have names.

A run has one seed; everything that draws gets a child of it by name, so that adding a consumer
never shifts the draws of another one. Children are derived by hashing, not by drawing.
"""

import hashlib
import random
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Seed:
    """A named point in the tree of a run's seeds."""

    value: int
    """0 .. 2**63 - 1."""

    def child(self, name: str) -> "Seed":
        """The seed called `name` below this one; the same name always gives the same seed."""
        digest = hashlib.sha256(f"{self.value}/{name}".encode()).digest()
        return Seed(int.from_bytes(digest[:8], "big") >> 1)

    def numpy(self) -> np.random.Generator:
        """A fresh numpy generator at this seed."""
        return np.random.default_rng(self.value)

    def python(self) -> random.Random:
        """A fresh generator of the standard library at this seed."""
        return random.Random(self.value)
