"""What a model weighs: METHODS' table, a closed form, bitsandbytes itself, and built toys."""

import math
from collections.abc import Iterable

import pytest
import torch
from bitsandbytes.functional import quantize_4bit
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import TOYS, make_toy
from transformers import AutoModelForCausalLM, PretrainedConfig, Qwen3Config

from trimtab.models.blocks import find_decoder
from trimtab.models.parts import NF4_BYTES, Parts, published
from trimtab.models.registry import REGISTRY, Shape
from trimtab.models.shapes import config, known_config
from trimtab.models.weights import Weights, weigh, weigh_all

TABLE = {  # METHODS 4: billions, of them in fused experts, bf16 GB, NF4 everywhere GB as printed
    "Qwen3-0.6B": (0.596, 0.0, "1.2", "0.5"),
    "Qwen3-4B": (4.022, 0.0, "8.0", "2.7"),
    "Qwen3-8B": (8.191, 0.0, "16.4", "6.1"),
    "Qwen3-14B": (14.768, 0.0, "29.5", "9.9"),
    "Qwen3-32B": (32.762, 0.0, "65.5", "19.2"),
    "Qwen3-235B-A22B": (235.094, 227.096, "470", "123"),
    "Llama-3.1-8B": (8.030, 0.0, "16.1", "5.7"),
    "Llama-4-Scout": (107.770, 96.637, "216", "59"),
    "gpt-oss-20b": (20.915, 19.110, "42", "12.5"),
    "gpt-oss-120b": (116.829, 114.662, "234", "62"),
}
KNOWN = {model.family: model for model in REGISTRY.values()}


@pytest.fixture(scope="module")
def weights() -> dict[str, Weights]:
    """Of each of the ten shapes, built on the meta device."""
    families = list(TABLE)
    return dict(zip(families, weigh_all(known_config(KNOWN[f]) for f in families), strict=True))


def closed_form(shape: Shape) -> Parts:
    """The same count from the dimensions alone (biases, norms and sinks apart)."""
    inner, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    attention = shape.d_model * (2 * inner + 2 * kv)
    mlp = 3 * shape.d_model * shape.d_mlp
    shared = mlp if shape.architecture == "llama4" else 0
    dense = 0 if shape.num_experts else mlp
    linear = shape.num_layers * (attention + dense + shared)
    experts = shape.num_layers * shape.num_experts * mlp
    ends = shape.vocabulary * shape.d_model * (1 if shape.tied else 2)
    per_block = (4 if shape.architecture in ("llama", "qwen3") else 0) + (7 if dense else 4)
    return Parts(linear, experts, ends, 0, per_block)


def test_the_table_is_of_every_shape() -> None:
    assert set(TABLE) == set(KNOWN)


@pytest.mark.parametrize("family", TABLE)
def test_parameters_are_those_of_the_table(weights: dict[str, Weights], family: str) -> None:
    found, (total, experts, _, _) = weights[family], TABLE[family]
    assert math.isclose(found.parameters, total * 1e9, rel_tol=1e-3)
    assert math.isclose(found.parts.experts, experts * 1e9, rel_tol=1e-3)
    assert sum(found.parts[:4]) == found.parameters


@pytest.mark.parametrize("family", TABLE)
def test_kinds_are_those_of_a_closed_form(weights: dict[str, Weights], family: str) -> None:
    found, expected = weights[family].parts, closed_form(KNOWN[family].shape)
    assert found[:3] == expected[:3]
    assert found.other < 0.004 * found.total


@pytest.mark.parametrize("family", TABLE)
def test_bytes_are_those_of_the_formula_and_of_the_table_to_its_rounding(
    weights: dict[str, Weights], family: str
) -> None:
    parts, (_, _, bf16, nf4) = weights[family].parts, TABLE[family]
    expected = closed_form(KNOWN[family].shape)
    kept = parts.total - expected.linear - expected.experts
    formula = 0.516 * (expected.linear + expected.experts) + 2 * kept
    assert math.isclose(parts.bytes_in("nf4"), formula, rel_tol=0.01)
    for precision, printed in (("bf16", bf16), ("nf4", nf4)):
        decimals = len(printed.partition(".")[2])
        assert f"{parts.bytes_in(precision) / 1e9:.{decimals}f}" == printed


def test_other_precisions_follow_their_formats(weights: dict[str, Weights]) -> None:
    parts = weights["gpt-oss-120b"].parts
    assert parts.bytes_in("mxfp4") == round(4.25 / 8 * parts.experts) + 2 * (
        parts.total - parts.experts
    )
    assert parts.bytes_in("int8") == 2 * parts.total - parts.linear - parts.experts
    assert parts.bytes_in("float32") == 2 * parts.bytes_in("bf16") == 2 * parts.bytes_in("fp16")
    dense = weights["Qwen3-8B"].parts
    assert dense.bytes_in("mxfp4") == dense.bytes_in("bf16")


def test_nf4_is_what_bitsandbytes_holds() -> None:
    tensor = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(tensor.bfloat16(), quant_type="nf4", compress_statistics=True)
    tables = (state.code, state.state2.code, state.offset)
    scales = (packed, state.absmax, state.state2.absmax)
    held = sum(part.nbytes for part in (*scales, *tables))
    assert sum(part.nbytes for part in scales) == NF4_BYTES * tensor.numel()
    assert Parts(tensor.numel(), 0, 0, 0, 1).bytes_in("nf4") == held


def test_published_precision_of_the_23_is_the_registrys() -> None:
    names = {"bfloat16": "bf16", "mxfp4": "mxfp4"}
    for known in REGISTRY.values():
        assert published(known_config(known)) == names[known.precision]


@pytest.mark.parametrize(
    ("said", "dtype", "found"),
    [
        (None, "float32", "float32"),
        (None, "float16", "fp16"),
        ({"quant_method": "mxfp4"}, "bfloat16", "mxfp4"),
        ({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}, "bfloat16", "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bfloat16", "nf4"),
        ({"quant_method": "trimtab_nf4"}, "bfloat16", "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bfloat16", "int8"),
        ({"quant_method": "something-else"}, "bfloat16", "bf16"),
    ],
)
def test_a_configuration_says_its_precision(
    said: dict[str, object] | None, dtype: str, found: str
) -> None:
    made = Qwen3Config(dtype=dtype)
    if said is not None:
        made.quantization_config = said
    assert published(made) == found
    if said is None:
        assert published(made, dtype="bfloat16") == "bf16"


def test_routers_stay_wide_and_every_parameter_has_one_kind(weights: dict[str, Weights]) -> None:
    for family in ("Qwen3-235B-A22B", "Llama-4-Scout", "gpt-oss-20b"):
        shape, parts = KNOWN[family].shape, weights[family].parts
        assert parts.other >= shape.num_layers * shape.num_experts * shape.d_model


def test_a_token_needs_the_experts_it_is_routed_to(weights: dict[str, Weights]) -> None:
    for family in ("Qwen3-235B-A22B", "gpt-oss-120b"):
        shape, found = KNOWN[family].shape, weights[family]
        idle = found.parts.experts * (1 - shape.top_k / shape.num_experts)
        assert math.isclose(found.active, found.parameters - idle, rel_tol=0.01)
        assert found.computed_in_blocks == found.active_in_blocks
    assert 21.5e9 < weights["Qwen3-235B-A22B"].active < 22.5e9  # A22B
    assert weights["Qwen3-8B"].active == weights["Qwen3-8B"].parameters - 4096  # the last norm


def test_llama4_needs_one_expert_and_computes_all(weights: dict[str, Weights]) -> None:
    found = weights["Llama-4-Scout"]
    assert 16e9 < found.active < 18e9  # 17B
    assert found.computed_in_blocks == sum(found.parts[:2]) + found.parts.other - 5120
    assert found.flops_per_token == 2 * found.computed_in_blocks


def test_blocks_and_fused_tensors_are_what_loading_says(weights: dict[str, Weights]) -> None:
    big = weights["Qwen3-235B-A22B"]
    assert math.isclose(big.largest_block.bytes_in("bf16"), 4.98e9, rel_tol=0.01)
    assert 2 * big.largest_fused == 2 * 128 * 4096 * 2 * 1536
    assert big.num_layers * big.largest_block.total + big.parts.embedding + 4096 == big.parameters
    assert big.token_embedding == 151_936 * 4096


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_weighs_what_it_is(name: str) -> None:
    model = make_toy(name)
    found = weigh(model.config)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.parts.experts == sum(
        p.numel() for n, p in model.named_parameters() if ".experts." in n and p.ndim == 3
    )
    assert found.parts.embedding == 2 * 64 * 32
    assert (found.num_layers, found.d_model, found.published) == (4, 32, "float32")


def test_tied_embeddings_count_once() -> None:
    def weight(*, tied: bool) -> Parts:
        return weigh(config(Shape("llama", 2, 32, 48, 4, 2, 8, 64, tied=tied))).parts

    assert weight(tied=False).embedding == 2 * weight(tied=True).embedding == 2 * 64 * 32
    assert weight(tied=False).linear == weight(tied=True).linear


def test_a_multimodal_model_is_its_text_part() -> None:
    from transformers import Llama4Config

    text = TOYS["llama4"][1]()
    whole = Llama4Config(text_config=text.to_dict(), dtype="float32")
    assert weigh(whole).parts == weigh(text).parts


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors alive at once that were made inside."""

    def __init__(self, not_these: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.not_these = {tensor.untyped_storage()._cdata for tensor in not_these}
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                made = tensor.untyped_storage()
                if made._cdata not in self.not_these:
                    self.storages[made._cdata] = StorageWeakRef(made), made.nbytes()
        self.storages = {k: v for k, v in self.storages.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return out


@pytest.mark.parametrize("length", [16, 128])
@pytest.mark.parametrize(
    "shape",
    [
        Shape("qwen3", 1, 512, 1536, 4, 1, 128, 64),
        Shape("qwen3_moe", 1, 512, 192, 8, 1, 128, 64, num_experts=16, top_k=8),
        Shape("llama", 1, 512, 1792, 4, 1, 128, 64),
        Shape("llama4", 1, 640, 1024, 5, 1, 128, 64, num_experts=16, top_k=1),
        Shape("gpt_oss", 1, 384, 384, 8, 1, 64, 64, num_experts=16, top_k=4),
    ],
    ids=lambda shape: shape.architecture,
)
def test_activations_of_a_block_are_what_a_forward_holds(shape: Shape, length: int) -> None:
    made = config(shape)
    model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16).eval()
    decoder = find_decoder(model)
    with torch.inference_mode():
        hidden, calls = decoder.start(torch.zeros(1024 // length, length, dtype=torch.int64))
        (block,) = decoder.blocks(0)
        with Live([*model.parameters(), hidden]) as live:
            block(hidden, *calls[0].args, **calls[0].kwargs)
    # An estimate; the plan's margin of 10 % covers a tensor that it forgot.
    assert 0.98 < weigh(made).activation_bytes(1024, length) / live.peak < 1.2


def test_more_tokens_never_need_less() -> None:
    found = weigh(TOYS["gpt_oss"][1]())
    assert found.score_heads == 4  # its attention holds its scores
    small, more, longer = (found.activation_bytes(*n) for n in ((64, 8), (128, 8), (64, 1_000)))
    assert 0 < 2 * small == more
    assert longer > small


def test_equal_configurations_are_weighed_once() -> None:
    made: list[PretrainedConfig] = [TOYS["llama"][1]() for _ in range(2)]
    first, second = weigh_all(made)
    assert first is second
    assert first == weigh(made[0])
