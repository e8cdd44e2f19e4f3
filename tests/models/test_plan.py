"""Where a model goes: the rule's three steps, its edges, and arithmetic that can be done by hand."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import TOYS

from trimtab.core.errors import ConfigError, ModelError
from trimtab.models.cost import Work, compute_seconds, hidden_bytes, pass_bytes, store_bytes
from trimtab.models.hardware import (
    COMPUTE_EFFICIENCY,
    CONTEXT_BYTES,
    GPUS,
    MARGIN,
    Machine,
    machine_of,
)
from trimtab.models.parts import Parts
from trimtab.models.plan import ModelPlan, place
from trimtab.models.registry import REGISTRY
from trimtab.models.shapes import known_config
from trimtab.models.weights import Weights, weigh, weigh_all

HOST = 10**12
WORK = Work(prompts=16_315, tokens=12 * 16_315, rows=16_315)
BIG, SCOUT, OSS = "Qwen3-235B-A22B", "Llama-4-Scout", "gpt-oss-120b"

Weigh = Callable[[str], Weights]


@pytest.fixture(scope="module")
def weights() -> dict[str, Weights]:
    """Of each of the ten shapes, by family."""
    known = {model.family: known_config(model) for model in REGISTRY.values()}
    return dict(zip(known, weigh_all(known.values()), strict=True))


def node(kind: str) -> Machine:
    return machine_of(kind, HOST)


def made_up(billions: float, experts: float = 0.0, blocks: int = 10) -> Weights:
    """A model of equal blocks in bf16 with round numbers and without ends."""
    linear, fused = round((billions - experts) * 1e9), round(experts * 1e9)
    parts = Parts(linear, fused, 0, 0, blocks)
    block = Parts(linear // blocks, fused // blocks, 0, 0, 1)
    total = parts.total
    return Weights("made-up", "bf16", parts, block, blocks, 1_000, 0, 0, total, total, 10_000, 0)


def card(memory: int, *, count: int = 8) -> Machine:
    gpu = GPUS["h100-80gb"]._replace(memory=memory)
    return Machine(gpu, count, count, HOST)


@pytest.mark.parametrize("kind", ["h100-80gb:8", "h200-141gb:8", "h200-141gb:1"])
def test_each_of_the_ten_runs_exactly_on_one_card_or_less(
    weights: dict[str, Weights], kind: str
) -> None:
    for family, weight in weights.items():
        plan = place(weight, WORK, node(kind), name=family)
        assert 0 < plan.gpus_per_replica <= 1
        assert plan.precision == weight.published
        assert plan.needed_bytes <= plan.gpus_per_replica * GPUS[kind.split(":")[0]].memory


def test_what_does_not_fit_one_card_streams_and_says_what_resident_would_take(
    weights: dict[str, Weights],
) -> None:
    streamed = {
        family: place(weight, WORK, node("h100-80gb"))
        for family, weight in weights.items()
        if place(weight, WORK, node("h100-80gb")).source == "streamed"
    }
    assert set(streamed) == {BIG, SCOUT}
    assert "470 GB" in streamed[BIG].why
    assert "resident it would take 7 h100-80gb" in streamed[BIG].why
    assert streamed[BIG].passes == 1


def test_nf4_only_where_it_was_asked_for_on_the_fewest_cards(weights: dict[str, Weights]) -> None:
    one, two = (
        place(weights[BIG], WORK, node(kind), precision="nf4")
        for kind in ("h200-141gb", "h100-80gb")
    )
    assert (one.source, one.precision, one.gpus_per_replica) == ("resident", "nf4", 1)
    assert (two.source, two.precision, two.gpus_per_replica) == ("resident", "nf4", 2)
    assert "not exact" in two.why
    assert "7 h100-80gb" in two.why


def test_a_model_published_in_mxfp4_stays_in_it(weights: dict[str, Weights]) -> None:
    for precision in ("published", "nf4"):
        plan = place(weights[OSS], WORK, node("h100-80gb"), precision=precision)
        assert (plan.source, plan.precision, plan.gpus_per_replica) == ("resident", "mxfp4", 1)
    experts = weights[OSS].largest_block.experts
    assert plan.activation_bytes > 2 * experts  # one block's experts, dequantised


def test_a_checkpoint_published_in_nf4_is_resident_as_it_is(weights: dict[str, Weights]) -> None:
    ours = weights[BIG]._replace(published="nf4")
    plan = place(ours, WORK, node("h100-80gb"))
    assert (plan.source, plan.precision, plan.gpus_per_replica) == ("resident", "nf4", 2)
    assert "NF4 as published" in plan.why
    assert plan.seconds_read < 0.3 * place(weights[BIG], WORK, node("h100-80gb")).seconds_read


def test_small_models_share_a_card(weights: dict[str, Weights]) -> None:
    shares = {
        family: place(weights[family], WORK, node("h100-80gb")).gpus_per_replica
        for family in ("Qwen3-0.6B", "Qwen3-4B", "Qwen3-14B", "Qwen3-32B")
    }
    assert list(shares.values()) == [0.125, 0.25, 0.5, 1]


def needed(weight: Weights, work: Work) -> int:
    """By hand: weights, one batch, a block of 2,048 prompts, the process, and a tenth."""
    batch = weight.activation_bytes(min(work.token_budget, work.tokens), work.longest)
    states = min(work.tokens, 2 * 2_048 * work.tokens // work.prompts) * weight.d_model * 2
    return round(MARGIN * (2 * weight.parameters + batch + states + CONTEXT_BYTES))


def test_the_last_byte_decides() -> None:
    weight = made_up(10.0)
    total = needed(weight, WORK)
    fits = place(weight, WORK, card(total), num_gpus=1.0)
    assert (fits.source, fits.needed_bytes, fits.token_budget) == ("resident", total, 16_384)
    less = place(weight, WORK, card(total - 1), num_gpus=1.0)
    assert (less.source, less.token_budget) == ("resident", 8_192)
    batch = weight.activation_bytes(16_384, 128) - weight.activation_bytes(1_024, 128)
    assert place(weight, WORK, card(total - round(MARGIN * batch) - 2)).source == "streamed"


def test_a_share_is_taken_only_with_the_whole_budget() -> None:
    weight = made_up(10.0)
    total = needed(weight, WORK)
    assert place(weight, WORK, card(2 * total)).gpus_per_replica == 0.5
    plan = place(weight, WORK, card(2 * total - 2))
    assert (plan.gpus_per_replica, plan.token_budget) == (1, 16_384)


@given(st.integers(12, 400), st.integers(1, 200))
def test_more_memory_never_makes_a_plan_worse(billions: int, extra: int) -> None:
    weight = made_up(float(billions), blocks=100)
    less, more = (
        place(weight, WORK, card(size * 2**30), source="auto") for size in (80, 80 + extra)
    )
    order = {"resident": 0, "streamed": 1}
    assert order[more.source] <= order[less.source]
    if more.source == less.source:
        assert more.gpus_per_replica <= less.gpus_per_replica
        assert more.token_budget >= less.token_budget
        assert more.block_prompts >= less.block_prompts


def test_what_the_user_says_holds(weights: dict[str, Weights]) -> None:
    small = weights["Qwen3-8B"]
    assert place(small, WORK, node("h100-80gb"), source="streamed").source == "streamed"
    assert place(small, WORK, node("h100-80gb"), num_gpus=1.0).gpus_per_replica == 1
    whole = place(weights[BIG], WORK, node("h100-80gb"), source="resident")
    assert (whole.source, whole.gpus_per_replica) == ("resident", 7)
    assert place(weights[BIG], WORK, node("h100-80gb"), num_gpus=8.0).source == "resident"
    assert place(weights[BIG], WORK, node("h100-80gb"), num_gpus=4.0).source == "streamed"


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        ("h100-80gb", {"precision": "nf4", "source": "streamed"}, "nf4 are held and do not stream"),
        ("h100-80gb:4", {"source": "resident"}, "it would take 7 h100-80gb"),
        ("h100-80gb:1", {"precision": "nf4"}, r"123 GB in nf4.*take 2 h100-80gb.*streamed"),
        ("h100-80gb:4", {"num_gpus": 8.0}, "has 4 GPUs.* asked for on 8"),
        ("h100-80gb", {"num_gpus": 1.5}, "whole number"),
        ("h100-80gb", {"num_gpus": -1.0}, "whole number"),
        ("cpu", {"num_gpus": 1.0}, "has 0 GPUs"),
        ("h100-80gb", {"num_gpus": 0.125}, r"1/8 of one h100-80gb \(10.6 GB\).*at least"),
    ],
)
def test_what_cannot_be_says_what_is_needed(
    weights: dict[str, Weights], kind: str, said: dict, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        place(weights[BIG], WORK, node(kind), name="the big one", **said)
    assert "the big one" in str(caught.value)


def test_on_a_cpu_host_memory_decides() -> None:
    weight, work = made_up(10.0), WORK._replace(token_budget=1_024)
    total = needed(weight, work)
    fits = place(weight, work, machine_of("cpu", total))
    assert (fits.source, fits.gpus_per_replica, fits.replicas) == ("resident", 0, 1)
    assert place(weight, work, machine_of("cpu", total - 1)).source == "streamed"
    with pytest.raises(ModelError, match=r"the host's 4\.0 GB.*more memory"):
        place(weight, work, machine_of("cpu", 4 * 10**9))
    zero = place(weight, work, node("h100-80gb"), num_gpus=0.0)
    assert (zero.source, zero.gpus_per_replica) == ("resident", 0)


def test_a_streamed_model_holds_two_blocks_and_the_embedding(weights: dict[str, Weights]) -> None:
    big = weights[BIG]
    plan = place(big, WORK, node("h100-80gb"))
    assert plan.weight_bytes == 2 * big.largest_block.bytes_in("bf16") + 2 * big.token_embedding
    oss = place(weights[OSS], WORK, node("h100-80gb"), source="streamed")
    slot = weights[OSS].largest_block.bytes_in("bf16")  # unpacked as it is read
    assert oss.weight_bytes == 2 * slot + 2 * weights[OSS].token_embedding


def test_states_that_do_not_fit_are_held_in_several_blocks_of_prompts() -> None:
    weight = made_up(400.0, blocks=100)
    much = WORK._replace(prompts=10**6, tokens=12 * 10**6)
    room = card(30 * 10**9, count=1)
    plan = place(weight, much, room)
    assert 1 < plan.passes == math.ceil(10**6 / plan.block_prompts)
    assert plan.needed_bytes <= 30 * 10**9
    assert plan.read_bytes == plan.passes * 800 * 10**9
    asked = place(weight, much._replace(block_prompts=10**6), room)
    assert (asked.passes, asked.block_prompts) == (1, 10**6)
    assert asked.hidden_state_bytes == hidden_bytes(weight, 12 * 10**6)


def test_seconds_are_those_of_a_hand_calculation() -> None:
    weight, work = made_up(10.0), Work(prompts=1_000, tokens=1_000_000, rows=1_000)
    machine = card(80 * 2**30)
    compute = 2 * 10e9 * 1e6 / (COMPUTE_EFFICIENCY * GPUS["h100-80gb"].flops)
    assert math.isclose(
        compute_seconds(weight, work, "bf16", machine, batches=1), compute, rel_tol=1e-9
    )
    resident = place(weight, work, machine, num_gpus=1.0)
    assert math.isclose(resident.seconds_read, 10.0)  # 20 GB at 2 GB/s
    assert math.isclose(resident.seconds, compute + 10)
    streamed = place(weight, work, machine, source="streamed")
    assert math.isclose(streamed.seconds, max(compute, 10.0))
    half = place(weight, work, machine._replace(read_rate=1e9), source="streamed")
    assert math.isclose(half.seconds_read, 20.0)


def test_a_host_link_slower_than_storage_bounds_reading() -> None:
    fast = card(80 * 2**30)._replace(read_rate=1e12)
    plan = place(made_up(32.0), WORK, fast, source="streamed")
    assert math.isclose(plan.seconds_read, 64e9 / GPUS["h100-80gb"].link)


def test_copies_are_started_only_where_they_save_time() -> None:
    weight, machine = made_up(1.0), card(80 * 2**30)
    little = place(weight, WORK, machine)
    assert (little.replicas, little.replicas_fit) == (1, 64)
    much = WORK._replace(prompts=10**7, tokens=12 * 10**7 * 10)
    many = place(weight, much, machine)
    assert 1 < many.replicas <= 8  # more than the cards would only read more
    assert many.seconds < place(weight, much, card(80 * 2**30, count=1)).seconds


def test_packing_weights_costs_traffic_not_products() -> None:
    weight, machine = made_up(100.0, experts=90.0), node("h100-80gb")
    bf16, nf4 = (
        compute_seconds(weight, WORK, precision, machine, batches=10**4)
        for precision in ("bf16", "nf4")
    )
    assert nf4 > 2 * bf16


def test_fewer_layers_cost_less() -> None:
    weight, machine = made_up(10.0), card(80 * 2**30)
    all_of_it, half = (
        place(weight, WORK._replace(layers=layers), machine, source="streamed")
        for layers in (None, (0, 4))
    )
    assert half.read_bytes * 2 == all_of_it.read_bytes == pass_bytes(weight, WORK, "streamed")
    assert half.seconds_compute * 2 == pytest.approx(all_of_it.seconds_compute)
    assert half.store_bytes * 5 == all_of_it.store_bytes == store_bytes(weight, WORK)
    assert store_bytes(weight, WORK) == 16_315 * 10 * 1_000 * 2


def test_a_float32_model_counts_four_bytes() -> None:
    weight = weigh(TOYS["llama"][1]())
    plan = place(weight, Work(10, 100, 10, token_budget=64), machine_of("cpu", HOST))
    assert plan.weight_bytes == 4 * weight.parameters
    assert plan.hidden_state_bytes == 100 * 32 * 4


def test_no_prompt_at_all_costs_reading_only() -> None:
    plan = place(made_up(1.0), Work(0, 0, 0), card(80 * 2**30))
    assert (plan.tokens, plan.store_bytes, plan.hidden_state_bytes) == (0, 0, 0)
    assert plan.replicas == 1


def test_the_same_question_has_the_same_answer(weights: dict[str, Weights]) -> None:
    for weight in weights.values():
        first, again = (place(weight, WORK, node("a100-40gb")) for _ in range(2))
        assert isinstance(first, ModelPlan)
        assert first == again


@pytest.mark.parametrize("asked", ["h100", "h100-80gb:0", "h100-80gb:", "h100-80gb:two", ""])
def test_an_unknown_card_names_the_known_ones(asked: str) -> None:
    with pytest.raises(ConfigError, match=r"KIND:N.*h100-80gb, h200-141gb.*cpu"):
        machine_of(asked, HOST)


def test_a_kind_without_a_number_is_one_node_and_many_cards_are_nodes_of_eight() -> None:
    assert (node("h100-80gb").num_gpus, node("h100-80gb").num_nodes) == (8, 1)
    many = node("h100-80gb:32")
    assert (many.num_gpus, many.gpus_per_node, many.num_nodes) == (32, 8, 4)
    assert (node("rtx-4090-24gb").num_gpus, node("rtx-4090-24gb:2").gpus_per_node) == (1, 2)
