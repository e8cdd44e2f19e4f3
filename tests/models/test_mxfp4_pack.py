"""Packing to MXFP4: the inverse of unpacking, ours and transformers'."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from trimtab.models.mxfp4 import GROUP, VALUES, unpack
from trimtab.models.mxfp4_pack import pack


def representable(seed: int, experts: int, inner: int, out: int) -> torch.Tensor:
    """Signed values of the format under one random exponent for each group."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([*VALUES, *(-value for value in VALUES)])
    drawn = values[torch.randint(0, 16, (experts, inner, out), generator=generator)]
    exponents = torch.randint(-20, 20, (experts, inner // GROUP, 1, out), generator=generator)
    groups = drawn.view(experts, inner // GROUP, GROUP, out)
    return torch.ldexp(groups, exponents).view(experts, inner, out)


@given(
    seed=st.integers(0, 2**31),
    experts=st.integers(1, 3),
    groups=st.integers(1, 3),
    out=st.integers(1, 7),
)
def test_what_the_format_can_hold_comes_back_bit_for_bit(
    seed: int, experts: int, groups: int, out: int
) -> None:
    weights = representable(seed, experts, groups * GROUP, out)
    packed = pack(weights)
    assert torch.equal(unpack(*packed, torch.float32), weights)
    theirs = convert_moe_packed_tensors(*packed, dtype=torch.float32)
    assert torch.equal(theirs, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packing_twice_is_packing_once(dtype: torch.dtype) -> None:
    weights = torch.randn(2, 64, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    once = unpack(*pack(weights), dtype)
    assert torch.equal(unpack(*pack(once), dtype), once)


def test_every_weight_goes_to_the_nearest_value_of_its_group() -> None:
    weights = torch.randn(2, 96, 11, generator=torch.Generator().manual_seed(2))
    blocks, scales = pack(weights)
    grid = torch.tensor(sorted({*VALUES, *(-value for value in VALUES)}))
    step = torch.exp2(scales.float() - 127).transpose(1, 2).repeat_interleave(GROUP, dim=1)
    distances = (weights[..., None] - step[..., None] * grid).abs()
    error = (unpack(blocks, scales, torch.float32) - weights).abs()
    assert torch.equal(error, distances.amin(dim=-1))


def test_nothing_is_cut_off_and_the_scale_is_the_smallest_that_does_so() -> None:
    weights = torch.zeros(1, GROUP, 3)
    weights[0, 0] = torch.tensor([6.0, 6.01, 12.0])
    blocks, scales = pack(weights)
    assert scales.flatten().tolist() == [127, 128, 128]
    assert unpack(blocks, scales, torch.float32)[0, 0].tolist() == [6.0, 6.0, 12.0]


def test_the_middle_between_two_values_goes_to_the_even_code() -> None:
    middles = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    weights = torch.zeros(1, GROUP, 1)
    weights[0, : len(middles) + 1, 0] = torch.tensor([*middles, 6.0])
    got = unpack(*pack(weights), torch.float32)[0, : len(middles), 0].tolist()
    assert got == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


def test_zeros_stay_zeros() -> None:
    weights = torch.zeros(1, GROUP, 2)
    assert torch.equal(unpack(*pack(weights), torch.float32), weights)


@pytest.mark.parametrize(
    "weights", [torch.zeros(1, 33, 2), torch.full((1, 32, 2), torch.inf)], ids=["33", "inf"]
)
def test_what_cannot_be_packed_is_refused(weights: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="groups of 32"):
        pack(weights)
