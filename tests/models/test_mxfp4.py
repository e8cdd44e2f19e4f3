import pytest
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from trimtab.models.mxfp4 import unpack


def packed(experts: int, out: int, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (experts, out, groups, 16), generator=generator)
    scales = torch.randint(100, 140, (experts, out, groups), generator=generator)
    return blocks.to(torch.uint8), scales.to(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(3, 8, 2), (1, 1, 1), (2, 5, 3)])
def test_gives_the_bits_that_transformers_gives(
    dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    blocks, scales = packed(*shape)
    assert torch.equal(
        unpack(blocks, scales, dtype), convert_moe_packed_tensors(blocks, scales, dtype=dtype)
    )


def test_a_byte_is_two_weights_the_lower_half_first_and_a_scale_is_a_power_of_two() -> None:
    blocks = torch.zeros(1, 1, 1, 16, dtype=torch.uint8)
    blocks[..., 0] = 0b1111_0010  # 1.0, then -6.0
    weights = unpack(blocks, torch.full((1, 1, 1), 128, dtype=torch.uint8))
    assert weights.shape == (1, 32, 1)
    assert weights[0, :3, 0].tolist() == [2.0, -12.0, 0.0]


def test_bfloat16_is_exact_and_can_be_written_into_given_memory() -> None:
    blocks, scales = packed(2, 4, 2)
    memory = torch.full((2, 64, 4), torch.nan, dtype=torch.bfloat16)
    assert unpack(blocks, scales, into=memory) is memory
    assert torch.equal(memory.float(), unpack(blocks, scales, torch.float32))


def test_every_exponent_that_bfloat16_can_hold_is_exact() -> None:
    blocks = torch.full((1, 1, 1, 16), 0b0001_0010, dtype=torch.uint8)
    for exponent in range(1, 254):
        scales = torch.full((1, 1, 1), exponent, dtype=torch.uint8)
        assert unpack(blocks, scales)[0, 0, 0].item() == 2.0 ** (exponent - 127)
