"""Rows with a planted structure, shared by the tests of this room."""

from collections.abc import Callable

import numpy as np
import pytest

from trimtab.core.poles import NUM_POLES, TYPICALITIES
from trimtab.core.rows import Labels, Rows

MakeRows = Callable[..., Rows]


@pytest.fixture(scope="session")
def make_labels() -> Callable[..., Labels]:
    """Labels of n scenarios with every foundation, polarity, typicality and split among them."""

    def make(n: int, seed: int = 0) -> Labels:
        draw = np.random.default_rng(seed)
        foundation = draw.integers(5, size=n)
        polarity = draw.integers(-1, 2, size=n)
        pole = np.where(polarity == 0, -1, 2 * foundation + (polarity < 0))
        typicality = np.where(polarity == 0, 0.0, draw.choice(TYPICALITIES, size=n))
        vector = np.zeros((n, NUM_POLES))
        vector[pole >= 0, pole[pole >= 0]] = typicality[pole >= 0]
        split = np.arange(n) % 10
        return Labels(
            index=draw.permutation(n),
            vector=vector,
            typicality=typicality,
            foundation=foundation,
            pole=pole,
            polarity=polarity,
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
