"""Rows with a planted structure, shared by the tests of this room."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from planted import planted_labels

from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import Labels, Rows

MakeRows = Callable[..., Rows]


@pytest.fixture(scope="session")
def make_labels() -> Callable[..., Labels]:
    """Labels of n scenarios with every foundation, polarity, typicality and split among them."""

    def make(n: int, seed: int = 0) -> Labels:
        split = np.arange(n) % 10
        return replace(
            planted_labels(n, seed),
            index=np.random.default_rng(seed).permutation(n),
            split=np.select([split < 6, split < 8], [0, 1], 2),
        )

    return make


@pytest.fixture(scope="session")
def make_rows(make_labels: Callable[..., Labels]) -> MakeRows:
    """n rows of width d whose activations hold their moral vector among noise."""

    def make(n: int = 240, d: int = 8, seed: int = 0, noise: float = 0.3) -> Rows:
        labels = make_labels(n, seed)
        draw = np.random.default_rng(seed + 1)
        planted = labels.vector @ draw.normal(size=(NUM_POLES, d))
        offset = 5 * draw.normal(size=d)
        x = planted + offset + noise * draw.normal(size=(n, d))
        return Rows(x.astype(np.float32), labels)

    return make
