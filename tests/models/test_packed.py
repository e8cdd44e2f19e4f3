"""Packed expert tensors: bitsandbytes' bits, any choice of experts, dense only while in use."""

from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from bitsandbytes.nn.modules import Params4bit
from fourbit_toys import dequantised
from torch import nn

from trimtab.core.errors import ModelError
from trimtab.models.mxfp4 import unpack
from trimtab.models.nf4 import Nf4, Nf4Linear, pack, pack_linear, read_linear
from trimtab.models.packed import Mxfp4, Packing, attach, packed_parameter, packings

DTYPES = [torch.bfloat16, torch.float32]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def packed(tensor: torch.Tensor) -> tuple[nn.Parameter, Any]:
    parameter: Any = pack(tensor, tensor.shape, tensor.dtype)
    return parameter, parameter.packing


class Counting(Mxfp4):
    """Notes which experts were unpacked."""

    def __init__(self, scales: torch.Tensor) -> None:
        super().__init__(scales, torch.float32)
        self.asked: list[torch.Tensor | None] = []

    def unpack(self, packed: torch.Tensor, experts: torch.Tensor | None = None) -> torch.Tensor:
        self.asked.append(experts)
        return super().unpack(packed, experts)


class Experts(nn.Module):
    """Reads its parameter twice, or fails in between."""

    def __init__(self) -> None:
        super().__init__()
        blocks = torch.arange(4 * 8 * 2 * 16).remainder(256).to(torch.uint8).view(4, 8, 2, 16)
        self.packing = Counting(torch.full((4, 8, 2), 126, dtype=torch.uint8))
        self.weights = packed_parameter(blocks, self.packing)
        attach(self, "weights")

    def forward(self, fail: bool) -> torch.Tensor:
        first = self.weights
        if fail:
            raise RuntimeError("no")
        return first + self.weights


@pytest.mark.parametrize("dtype", DTYPES)
def test_expert_by_expert_gives_the_bits_of_the_whole_tensor(dtype: torch.dtype) -> None:
    tensor = random(5, 24, 32, dtype=dtype)
    theirs, state = quantize_4bit(tensor, quant_type="nf4", compress_statistics=True)
    ours, packing = packed(tensor)
    assert torch.equal(ours, theirs)
    assert torch.equal(packing.absmax, state.absmax)
    assert torch.equal(packing.nested_absmax, state.state2.absmax)
    assert packing.offset == state.offset
    assert torch.equal(packing.unpack(ours), dequantised(theirs, state))
    assert packing.unpack(ours).dtype == dtype


def test_whole_rows_of_blocks_read_as_bitsandbytes_reads_them() -> None:
    tensor = random(3, 8, 128, dtype=torch.bfloat16)
    theirs, state = quantize_4bit(tensor, quant_type="nf4", compress_statistics=True)
    ours, packing = packed(tensor)
    assert torch.equal(packing.unpack(ours), dequantize_4bit(theirs, state))


def test_values_of_the_code_times_one_scale_come_back_exactly() -> None:
    code: Any = quantize_4bit(random(64), quant_type="nf4")[1].code
    tensor = (3 * code).repeat(2 * 8 * 8).view(2, 32, 32)
    ours, packing = packed(tensor)
    assert torch.equal(packing.unpack(ours), tensor)


@pytest.mark.parametrize("shape", [(3, 10, 10), (4, 7, 9), (2, 1, 1)])
def test_an_expert_that_blocks_do_not_divide_ends_with_a_block_of_its_own(
    shape: tuple[int, int, int],
) -> None:
    tensor = random(*shape)
    size = shape[1] * shape[2]
    padded = nn.functional.pad(tensor.view(shape[0], size), (0, -size % 64))
    theirs = dequantised(*quantize_4bit(padded, quant_type="nf4", compress_statistics=True))
    ours, packing = packed(tensor)
    assert torch.equal(packing.unpack(ours), theirs[:, :size].reshape(shape))


@pytest.mark.parametrize("shape", [(4, 128, 128), (6, 24, 32), (3, 10, 10)])
@pytest.mark.parametrize("chosen", [[0], [2, 1], [0, 1, 2], []])
def test_chosen_experts_are_rows_of_the_whole(
    shape: tuple[int, int, int], chosen: list[int]
) -> None:
    ours, packing = packed(random(*shape))
    experts = torch.tensor(chosen, dtype=torch.int64)
    some = packing.unpack(ours, experts)
    assert torch.equal(some, packing.unpack(ours)[experts])


def test_four_bits_are_within_a_tenth() -> None:
    tensor = random(4, 64, 64)
    ours, packing = packed(tensor)
    assert 0.05 < (packing.unpack(ours) - tensor).norm() / tensor.norm() < 0.1


def test_scales_that_are_not_quantised_read_too() -> None:
    tensor = random(3, 16, 16)
    theirs, state = quantize_4bit(tensor, quant_type="nf4", compress_statistics=False)
    packing = Nf4(state)
    assert torch.equal(packing.unpack(theirs), dequantised(theirs, state))
    assert torch.equal(packing.unpack(theirs, torch.tensor([2])), packing.unpack(theirs)[2:])


def test_what_is_written_reads_back() -> None:
    ours, packing = packed(random(3, 16, 32))
    stats = packing.tensors("experts.up", ours)
    data = stats.pop("experts.up")
    again = Nf4(QuantState.from_dict(stats, device=torch.device("cpu")))
    assert torch.equal(again.unpack(data), packing.unpack(ours))


@pytest.mark.parametrize("shape", [(48, 32), (64, 64), (5, 7)])
def test_a_linear_layer_gets_bitsandbytes_bits(shape: tuple[int, int]) -> None:
    weight = random(*shape)
    layer = Nf4Linear(shape[1], shape[0], bias=False, quant_type="nf4")
    ours = pack_linear(weight, layer)
    theirs = Params4bit(weight.clone(), quant_type="nf4").to("cpu")
    assert torch.equal(ours, theirs)
    assert layer.quant_state is ours.quant_state
    assert ours.quant_state == theirs.quant_state
    assert torch.equal(read_linear(ours, weight.dtype), dequantised(theirs, theirs.quant_state))


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_multiplies_with_what_its_weights_say(bias: bool) -> None:
    layer = Nf4Linear(32, 48, bias=bias, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight = pack_linear(random(48, 32), layer)
    dense = dequantised(layer.weight, layer.weight.quant_state)
    x = random(5, 32)
    expected = nn.functional.linear(x, dense, layer.bias)
    assert torch.equal(layer.eval()(x), expected)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_pieces_are_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = random(2, 40, 16)
    whole, packing = packed(tensor)
    dense = packing.unpack(whole)
    monkeypatch.setattr("trimtab.models.nf4.CHUNK", 128)
    monkeypatch.setattr("trimtab.models.nf4.MOST", 3)
    pieces, again = packed(tensor)
    assert torch.equal(whole, pieces)
    assert torch.equal(dense, again.unpack(pieces))


def test_bytes_that_are_too_few_are_refused() -> None:
    ours, packing = packed(random(2, 10, 10))
    with pytest.raises(ModelError, match=r"\(2, 10, 10\) must have 128 bytes, but it has 100"):
        packed_parameter(ours[:100], packing)


def test_mxfp4_reads_as_what_it_unpacks_to() -> None:
    experts = Experts()
    ((name, packing, blocks),) = packings(experts)
    assert name == "weights"
    dense = unpack(blocks, experts.packing.scales, torch.float32)
    assert torch.equal(experts.weights, dense)
    assert dense.shape == packing.shape
    assert torch.equal(packing.unpack(blocks, torch.tensor([3, 1])), dense[[3, 1]])


def test_a_forward_unpacks_once_and_keeps_nothing() -> None:
    experts = Experts()
    experts(fail=False)
    assert len(experts.packing.asked) == 1
    experts(fail=False)
    assert len(experts.packing.asked) == 2
    assert experts.packing._dense is None


def test_a_forward_that_fails_keeps_nothing_either() -> None:
    experts = Experts()
    with pytest.raises(RuntimeError, match="no"):
        experts(fail=True)
    assert experts.packing._dense is None
    before = len(experts.packing.asked)
    _ = experts.weights, experts.weights
    assert len(experts.packing.asked) == before + 2


def test_scales_move_with_their_module() -> None:
    experts = Experts().to("meta")
    assert {buffer.device.type for buffer in experts.buffers()} == {"meta"}


def test_the_base_has_no_format() -> None:
    with pytest.raises(NotImplementedError):
        Packing((1, 1, 1), torch.float32).unpack(torch.zeros(1))
