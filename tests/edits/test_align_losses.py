"""Each term of the alignment loss against its formula on numbers that fit on a hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trimtab.edits.align_losses import align, mono, others, polarity, prototype

NO_PAIR = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))


def vectors(*rows: dict[int, float]) -> Tensor:
    found = torch.zeros(len(rows), 10)
    for i, row in enumerate(rows):
        for dimension, value in row.items():
            found[i, dimension] = value
    return found


def concept(m: int, **rows: list[float]) -> Tensor:
    found = torch.zeros(10, m)
    for name, values in rows.items():
        found[int(name[1:])] = torch.tensor(values)
    return found


def test_align_is_the_squared_error_of_a_sigmoid_where_the_dimension_is_positive() -> None:
    z = torch.tensor([[2.0, 1.0], [0.0, 4.0], [5.0, 5.0]])
    vector = vectors({0: 1.0}, {0: 0.5, 3: 0.25}, {})
    weights = concept(2, d0=[0.75, 0.25], d3=[0.0, 1.0], d7=[1.0, 0.0])

    def error(activation: float, value: float) -> float:
        return (1 / (1 + np.exp(-activation)) - value) ** 2

    care = (error(1.75, 1.0) + error(1.0, 0.5)) / 2
    cheating = error(4.0, 0.25)
    assert align(z, vector, weights).item() == pytest.approx((care + cheating) / 2, rel=1e-5)


def test_align_is_nothing_without_rows_or_latents() -> None:
    z, weights = torch.rand(3, 2), concept(2, d0=[0.5, 0.5])
    assert align(z, vectors({}, {}, {}), weights).item() == 0
    assert align(z, vectors({1: 1.0}, {1: 0.5}, {}), weights).item() == 0


def test_polarity_is_the_hinge_of_both_sides_over_five_pairs() -> None:
    z = torch.tensor([[1.0, 0.0], [0.2, 0.4], [0.0, 0.3], [0.9, 0.0], [7.0, 7.0]])
    vector = vectors({2: 0.5}, {2: 1.0}, {3: 0.375}, {3: 0.75}, {3: 0.25})
    means = concept(2, d2=[1.0, 0.0], d3=[0.0, 1.0])
    virtue = (0.0 + (0.5 - 0.2 + 0.4)) / 2
    vice = ((0.5 - 0.3 + 0.0) + (0.5 - 0.0 + 0.9)) / 2
    found = polarity(z, vector, means, margin=0.5, above=0.3, min_rows=2)
    assert found.item() == pytest.approx((virtue + vice) / 5)


def test_polarity_is_0_with_too_few_rows_or_without_latents_on_either_side() -> None:
    z = torch.rand(6, 2)
    vector = vectors(*[{2: 1.0}] * 3, *[{3: 1.0}] * 3)
    both = concept(2, d2=[1.0, 0.0], d3=[0.0, 1.0])
    one = concept(2, d2=[1.0, 0.0])
    assert polarity(z, vector, both, margin=0.5, above=0.3, min_rows=4).item() == 0
    assert polarity(z, vector, one, margin=0.5, above=0.3, min_rows=3).item() == 0
    assert polarity(z, vector, both, margin=0.5, above=0.3, min_rows=3).item() > 0


def test_prototype_is_the_hinge_of_the_product_of_differences() -> None:
    z = torch.tensor([[1.0], [0.2], [0.0]])
    vector = vectors({1: 1.0, 4: 1.0}, {1: 0.5, 4: 0.5}, {1: 0.25})
    pairs = [NO_PAIR] * 10
    pairs[1] = (torch.tensor([0, 1, 2]), torch.tensor([1, 0, 1]))
    pairs[4] = (torch.tensor([0]), torch.tensor([1]))
    one = (max(0.1 - 0.5 * 0.8, 0) + max(0.1 - 0.5 * 0.8, 0) + max(0.1 - 0.25 * 0.2, 0)) / 3
    weights = concept(1, d1=[1.0], d4=[0.1])
    other = max(0.1 - 0.5 * 0.08, 0)
    found = prototype(z, vector, weights, pairs, 0.1)
    assert found.item() == pytest.approx((one + other) / 2, rel=1e-5)
    assert prototype(z, vector, weights, [NO_PAIR] * 10, 0.1).item() == 0


def test_mono_is_the_mean_square_on_rows_of_another_dimension() -> None:
    z = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    vector = vectors({0: 1.0}, {5: 0.5}, {})
    found = mono(z, vector, torch.tensor([0, 5]), as_released=False)
    assert found.item() == pytest.approx((3.0**2 + 2.0**2) / 2)


def test_the_released_mono_takes_neutral_rows_for_care_and_the_first_of_ties() -> None:
    z = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    vector = vectors({0: 1.0}, {5: 0.5}, {})
    found = mono(z, vector, torch.tensor([0, 5]), as_released=True)
    assert found.item() == pytest.approx((3.0**2 + 2.0**2 + 6.0**2) / 3)
    tied = vectors({2: 0.5, 6: 0.5})
    assert not others(tied, as_released=False)[0, [2, 6]].any()
    assert others(tied, as_released=True)[0, [2, 6]].tolist() == [False, True]


def test_mono_without_strict_latents_is_0() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert mono(torch.zeros(3, 0), vectors({0: 1.0}, {}, {}), none, as_released=False).item() == 0


def test_gradients_push_where_the_terms_say() -> None:
    z = torch.full((8, 2), 0.1, requires_grad=True)
    vector = vectors(*[{0: 1.0}] * 4, *[{1: 1.0}] * 4)
    means = concept(2, d0=[1.0, 0.0], d1=[0.0, 1.0])
    polarity(z, vector, means, margin=0.5, above=0.3, min_rows=4).backward()
    assert z.grad is not None
    assert (z.grad[:4, 0] < 0).all()
    assert (z.grad[:4, 1] > 0).all()
    assert (z.grad[4:, 0] > 0).all()
    assert (z.grad[4:, 1] < 0).all()
