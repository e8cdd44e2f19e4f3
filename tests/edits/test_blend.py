"""Edits on loaded models: what they add, that they share a pass, and that nothing stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from armed_toys import D_MODEL, loaded_toy, make_arms, make_materials, make_sae
from fourbit_toys import save_bf16
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import TOYS, make_toy
from transformers import AutoModelForCausalLM

from trimtab.core.errors import CoderError, ConfigError
from trimtab.edits.arms import BASELINE, Arm, Coder, Materials
from trimtab.edits.change import LATENTS_AT_ONCE, change_of, reconstruction
from trimtab.edits.steering import Steering, blend, delta, direct, steer
from trimtab.models.blocks import locate_decoder
from trimtab.models.card import ModelConfig
from trimtab.models.loading import load
from trimtab.models.registry import REGISTRY
from trimtab.models.shapes import config as config_of_shape
from trimtab.sae.coder import CoderConfig, Sae

TOKENS = torch.randint(3, 64, (6, 9), generator=torch.Generator().manual_seed(1))


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@torch.inference_mode()
def residuals(model: nn.Module, tokens: Tensor, layer: int) -> Tensor:
    """The output of a block as the next one sees it."""
    seen: list[Tensor] = []
    after = list(locate_decoder(model).blocks(layer + 1))[layer + 1]
    handle = after.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(tokens)
    handle.remove()
    return seen[0]


def by_hand(x: Tensor, sae: Sae) -> Tensor:
    """The formula of METHODS 1.8 spelled out for the four kinds, one position at a time."""
    rows = []
    for row in x.reshape(-1, D_MODEL):
        pre = sae.W_enc @ (row - sae.center) + sae.b_enc
        match sae.config.kind:
            case "relu":
                z = pre.clamp(min=0)
            case "topk":
                z = torch.where(pre >= pre.sort().values[-sae.config.k], pre, 0).clamp(min=0)
            case _:
                z = torch.where(pre > sae.threshold, pre, 0).clamp(min=0)
        rows.append(z @ sae.W_dec + sae.b_dec + sae.center)
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
def test_a_blend_moves_every_position_toward_the_reconstruction(kind: str) -> None:
    model, sae = make_toy("llama"), make_sae(kind)
    x = residuals(model, TOKENS, 1)
    with blend(model, sae, layer=1, alpha=0.3):
        found = residuals(model, TOKENS, 1)
    torch.testing.assert_close(found, x + 0.3 * (by_hand(x, sae) - x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, x, atol=0.1)


def test_delta_and_direction_are_their_formulas() -> None:
    model, aligned, plain = make_toy("llama"), make_sae("topk"), make_sae("relu", seed=1)
    x, v = residuals(model, TOKENS, 2), torch.arange(1.0, D_MODEL + 1)
    with delta(model, aligned, plain, layer=2, alpha=0.7):
        found = residuals(model, TOKENS, 2)
    expected = x + 0.7 * (by_hand(x, aligned) - by_hand(x, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with direct(model, v, layer=2, alpha=-0.5):
        torch.testing.assert_close(residuals(model, TOKENS, 2), x - 0.5 * v)


def test_noise_is_as_long_as_the_blend_and_along_one_direction() -> None:
    model, materials = make_toy("llama"), make_materials()
    x, v = residuals(model, TOKENS, 1), materials.directions["away"]
    arm = Arm(name="n", kind="noise", layer=1, alpha=0.2, coder="plain", direction="away")
    with steer(model, arm, materials):
        added = residuals(model, TOKENS, 1) - x
    with blend(model, materials.coders["plain"].sae, layer=1, alpha=0.2):
        blended = residuals(model, TOKENS, 1) - x
    torch.testing.assert_close(added.norm(dim=-1), blended.norm(dim=-1), rtol=1e-4, atol=1e-4)
    cosine = nn.functional.cosine_similarity(added, v.expand_as(added), dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TOYS)
@torch.inference_mode()
def test_one_pass_carries_what_each_arm_gives_by_itself(name: str) -> None:
    model, materials, arms = make_toy(name), make_materials(), make_arms()
    before, plain = bits(model), model(TOKENS).logits
    with steer(model, arms, materials):
        together = model(TOKENS).logits
    for row, arm in enumerate(arms):
        with steer(model, arm, materials):
            alone = model(TOKENS[row : row + 1]).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)
        changed = not torch.allclose(alone, plain[row : row + 1], atol=1e-3)
        assert changed == (arm.kind != "none")
    assert hooks(model) == 0
    assert torch.equal(model(TOKENS).logits, plain)
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())


@torch.inference_mode()
def test_a_four_bit_model_carries_arms_and_is_the_same_afterwards(tmp_path: Path) -> None:
    folder = save_bf16(tmp_path / "toy", "qwen3_moe")
    model = load(ModelConfig(id=str(folder), precision="nf4", device="cpu")).model
    materials = make_materials().to(torch.device("cpu"), torch.bfloat16)
    before, plain = bits(model), model(TOKENS).logits
    with steer(model, make_arms(), materials):
        edited = model(TOKENS).logits
    torch.testing.assert_close(edited[0], plain[0], rtol=0, atol=0.05)
    assert not torch.allclose(edited[2], plain[2], atol=0.1)
    assert torch.equal(model(TOKENS).logits, plain)
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())


def test_an_exception_inside_leaves_nothing_behind() -> None:
    model = make_toy("llama")
    plain = model(TOKENS).logits
    with pytest.raises(KeyError, match="inside"), blend(model, make_sae(), layer=0, alpha=0.5):
        raise KeyError("inside")
    assert hooks(model) == 0
    assert torch.equal(model(TOKENS).logits, plain)


def test_an_arm_that_does_not_fit_is_refused_before_any_hook() -> None:
    model = make_toy("llama")
    with pytest.raises(ConfigError, match="num_layers=4"), blend(model, make_sae(), 7, 0.1):
        pass
    wide = make_sae(d_model=48)
    with pytest.raises(CoderError, match="d_model=48"), blend(model, wide, layer=1, alpha=0.1):
        pass
    assert hooks(model) == 0


def test_edits_nest_and_the_inner_one_sees_the_outer_one() -> None:
    model, sae = make_toy("llama"), make_sae("relu")
    x, v = residuals(model, TOKENS, 1), torch.ones(D_MODEL)
    with direct(model, v, layer=1, alpha=1.0):
        with blend(model, sae, layer=1, alpha=0.5):
            found = residuals(model, TOKENS, 1)
        torch.testing.assert_close(residuals(model, TOKENS, 1), x + v)
    expected = x + v + 0.5 * (by_hand(x + v, sae) - (x + v))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_alpha_zero_is_the_baseline_to_the_bit() -> None:
    model = make_toy("llama")
    plain = model(TOKENS).logits
    with blend(model, make_sae(), layer=1, alpha=0.0):
        assert torch.equal(model(TOKENS).logits, plain)


def test_a_coder_encodes_once_for_all_alphas_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = Sae.preactivations

    def counting(self: Sae, x: Tensor) -> Tensor:
        calls.append(len(x))
        return real(self, x)

    monkeypatch.setattr(Sae, "preactivations", counting)
    with steer(make_toy("llama"), [BASELINE, *make_arms()[1:4]], make_materials()) as steering:
        steering._decoder.module(TOKENS[:4])
    assert calls == [3 * 9, 9]  # weak, strong and delta of `aligned`; delta of `plain`


def test_strength_is_the_edits_length_over_the_residuals() -> None:
    model, sae = make_toy("llama"), make_sae("relu")
    x = residuals(model, TOKENS, 1)
    arms = [BASELINE, Arm(name="x", kind="blend", layer=1, alpha=0.3, coder="c")] * 3
    with steer(model, arms, Materials({"c": Coder(sae)})) as steering:
        model(TOKENS)
        model(TOKENS)
    edit = 0.3 * (by_hand(x, sae) - x)
    expected = edit.norm(dim=-1).mean(dim=1) / x.norm(dim=-1).mean(dim=1)
    expected[::2] = 0
    torch.testing.assert_close(steering.strengths, expected, rtol=1e-4, atol=1e-5)


def test_a_coder_that_learns_gets_gradients_and_its_strength_keeps_no_graph() -> None:
    model, sae = make_toy("llama"), make_sae("relu").requires_grad_()
    with blend(model, sae, layer=1, alpha=0.3) as steering:
        model(TOKENS).logits.sum().backward()
    assert sae.W_enc.grad is not None
    assert sae.W_enc.grad.any()
    assert not steering.strengths.requires_grad  # or every forward's activations would stay


def test_rows_that_leave_take_their_arms_along() -> None:
    model, materials, arms = make_toy("llama"), make_materials(), make_arms()
    kept = torch.tensor([1, 3, 5])
    with steer(model, arms, materials) as steering:
        whole = model(TOKENS).logits
        before = steering.strengths
        steering.keep(kept)
        rest = model(TOKENS[kept]).logits
        torch.testing.assert_close(steering.strengths, before[kept])
        steering.keep(torch.tensor([1]))
        assert steering.strengths.shape == (1,)
        torch.testing.assert_close(model(TOKENS[3:4]).logits, whole[3:4], rtol=0, atol=1e-5)
    torch.testing.assert_close(rest, whole[kept], rtol=0, atol=1e-5)
    assert hooks(model) == 0


def test_a_reconstruction_in_pieces_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, sae = torch.randn(5, 7, D_MODEL), make_sae("topk")
    whole = reconstruction(sae, x)
    assert 5 * 7 * sae.width < LATENTS_AT_ONCE
    monkeypatch.setattr("trimtab.edits.change.LATENTS_AT_ONCE", 3 * sae.width)
    torch.testing.assert_close(reconstruction(sae, x), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["direction", "noise"])
def test_a_direction_goes_where_its_layer_is(kind: str) -> None:
    arm = next(arm for arm in make_arms() if arm.kind == kind)
    x = torch.zeros(2, 3, D_MODEL, device="meta")
    change = change_of(arm, x, lambda _: x, torch.ones(D_MODEL))
    assert change.device == x.device


def test_the_model_is_a_loaded_one_too() -> None:
    loaded = loaded_toy("gpt_oss")
    with blend(loaded.model, make_sae(), layer=3, alpha=0.2) as steering:
        loaded.model(TOKENS)
        assert steering.strengths.shape == (1,)
        assert 0.05 < float(steering.strengths) < 50


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write; of a table's rows those that are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:  # noqa: ANN001, ANN401
        out = func(*args, **(kwargs or {}))
        touched = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if "embedding_bag" in str(func):
            table, rows = touched[:2]
            self.bytes += (rows.numel() - len(table)) * table[0].nbytes
        self.bytes += sum(tensor.nbytes for tensor in touched)
        self.operations += 1
        return out


@pytest.mark.parametrize(("kind", "rows_decoded"), [("relu", 65_536), ("topk", 32 * 100)])
def test_a_decode_step_moves_the_bytes_of_the_coder_and_hardly_more_at_full_size(
    kind: str, rows_decoded: int
) -> None:
    shape = REGISTRY["Qwen/Qwen3-8B"].shape._replace(num_layers=1)
    with torch.device("meta"), torch.inference_mode():
        model = AutoModelForCausalLM.from_config(config_of_shape(shape), dtype=torch.bfloat16)
        sae = Sae(CoderConfig(kind=kind, width=65_536, k=100), shape.d_model).to(torch.bfloat16)
        arm = Arm(name="blend", kind="blend", layer=0, alpha=0.1, coder="coder")
        steering = Steering(locate_decoder(model), [arm] * 32, Materials({"coder": Coder(sae)}))
        steering._group()
        hidden = torch.zeros(32, 1, shape.d_model, dtype=torch.bfloat16)
        with Traffic() as traffic:
            steering._edited(hidden, steering._layers[0])
    bound = sae.W_enc.nbytes + rows_decoded * sae.W_dec[0].nbytes
    assert bound <= traffic.bytes <= 1.05 * bound
    assert traffic.operations <= 32
