"""Aligning a coder: what is trained, what must not move, and what comes of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import planted_data, planted_sae

from trimtab.core.errors import DataError, TrainingError
from trimtab.core.names import ALIGN_TERMS, NAMES
from trimtab.core.seeds import Seed
from trimtab.edits.align import Aligned, Alignment, align, terms, unit_of
from trimtab.edits.align_compare import Comparison, compare
from trimtab.edits.align_config import AlignConfig, Weights
from trimtab.edits.align_part import Part, in_units
from trimtab.edits.align_sets import choose
from trimtab.locate.config import LatentConfig
from trimtab.locate.folds import Data
from trimtab.locate.latents import Located, locate
from trimtab.sae.coder import CoderConfig, Kind, Sae
from trimtab.sae.rows import from_tensors

KINDS: tuple[Kind, ...] = ("relu", "topk", "batchtopk", "jumprelu")
LATENTS = LatentConfig(min_rows=10, permutations=0, per_dimension=3, per_pole=2, num_prototypes=1)
CONFIG = AlignConfig(latents=LATENTS, epochs=4, batch=64, learning_rate=1e-2)


def blurred(kind: Kind = "relu") -> Sae:
    """A planted coder whose moral latents have something to learn; a third of it is moral."""
    sae = planted_sae(kind, width=40)
    draw = torch.Generator().manual_seed(9)
    sae.W_enc[:10] += 0.3 * torch.randn(10, 16, generator=draw)
    return sae


def located(sae: Sae, data: Data) -> Located:
    return locate(sae, data.of_split(1), LATENTS, Seed(0))


def aligned(sae: Sae, data: Data, config: AlignConfig = CONFIG, seed: int = 0) -> Aligned:
    found = located(sae, data)
    return align(sae, found, data.of_split(0), data.of_split(1), config, Seed(seed))


def tensors(sae: Sae) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in sae.state_dict().items()}


@pytest.mark.parametrize("unit_scale", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_chosen_rows_move_and_everything_else_is_bitwise_equal(
    kind: Kind, unit_scale: bool
) -> None:
    sae, data = blurred(kind), planted_data(400)
    before = tensors(sae)
    found = aligned(sae, data, CONFIG.model_copy(update={"unit_scale": unit_scale}))
    after = tensors(found.sae)
    expected = located(sae, data).sets.trained()
    np.testing.assert_array_equal(found.trained, expected)
    assert 10 <= len(expected) < 40
    frozen = np.setdiff1d(np.arange(40), expected)
    for name in ("W_enc", "b_enc", "W_dec"):
        assert torch.equal(after[name][frozen], before[name][frozen])
        changed = (after[name] != before[name]).reshape(40, -1).any(1).numpy()
        assert changed[expected].mean() > 0.8
    for name in ("b_dec", "center", "threshold"):
        assert torch.equal(after[name], before[name])
    for name, value in tensors(sae).items():
        assert torch.equal(value, before[name])
    torch.testing.assert_close(after["W_dec"].norm(dim=1), before["W_dec"].norm(dim=1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_part_beside_the_rest_is_the_coder(kind: Kind) -> None:
    sae, data = blurred(kind), planted_data(200)
    found = located(sae, data)
    part = Part(sae, choose(found.sets, found.r, torch.device("cpu")), 1.0)
    x = data.rows.gather(3, np.arange(50))
    z, rest = part.encode(x)
    latents = part.chosen.latents
    whole = sae.encode(x)
    torch.testing.assert_close(z, whole[:, latents])
    assert (rest[:, latents] == 0).all()
    torch.testing.assert_close(rest.index_copy(1, latents, z.detach()), whole)
    torch.testing.assert_close(part.rest.decode(rest) + z @ part.own.W_dec, sae(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_coder_in_other_units_is_the_same_function(kind: Kind) -> None:
    sae, x = blurred(kind), planted_data(30).rows.gather(3, np.arange(30))
    torch.testing.assert_close(in_units(sae, 0.25)(x / 0.25) * 0.25, sae(x))


def test_unit_scale_makes_an_alignment_blind_to_the_scale_of_a_layer() -> None:
    data, sae = planted_data(400), blurred()
    config = CONFIG.model_copy(update={"unit_scale": True})
    rows = from_tensors({3: data.rows.gather(3, np.arange(400)) * 16})
    far = data._replace(rows=rows)
    wide = in_units(sae, 1 / 16)
    assert unit_of(wide, far, config) == pytest.approx(16 * unit_of(sae, data, config))
    assert unit_of(wide, far, CONFIG) == 1.0
    a, b = aligned(sae, data, config), aligned(wide, far, config)
    assert a.epochs[-1].validation == pytest.approx(b.epochs[-1].validation, rel=1e-3)
    torch.testing.assert_close(a.sae.W_enc, b.sae.W_enc, rtol=1e-3, atol=1e-4)


def test_the_reconstruction_and_sparsity_terms_are_means() -> None:
    sae, data = blurred(), planted_data(200)
    found = located(sae, data)
    part = Part(sae, choose(found.sets, found.r, torch.device("cpu")), 1.0)
    x, vector = data.rows.gather(3, np.arange(50)), torch.from_numpy(data.labels.vector[:50])
    values = terms(part, x, vector.float(), CONFIG, Seed(0).numpy())
    assert tuple(values) == ALIGN_TERMS
    assert values["reconstruction"].item() == pytest.approx((sae(x) - x).square().mean().item())
    assert values["sparsity"].item() == pytest.approx(sae.encode(x).mean().item())


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not() -> None:
    sae, data = blurred(), planted_data(400)
    a, b, other = (aligned(sae, data, seed=seed) for seed in (5, 5, 6))
    assert a.epochs == b.epochs
    assert all(
        torch.equal(x, y)
        for x, y in zip(tensors(a.sae).values(), tensors(b.sae).values(), strict=True)
    )
    assert not torch.equal(a.sae.W_enc, other.sae.W_enc)


def test_an_alignment_that_is_saved_and_taken_up_ends_in_the_same_bits(tmp_path: Path) -> None:
    sae, data = blurred(), planted_data(400)
    found = located(sae, data)

    def begin() -> Alignment:
        train, validation = data.of_split(0), data.of_split(1)
        return Alignment(sae, found, train, validation, CONFIG, Seed(0))

    whole, first, second = begin(), begin(), begin()
    expected = list(whole.run())
    going = first.run()
    next(going)
    next(going)
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    assert len(list(second.run())) == 2
    assert second.epochs == expected
    for a, b in zip(second.result().sae.parameters(), whole.result().sae.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_best_epoch_on_held_out_rows_is_kept_and_patience_ends_it() -> None:
    sae, data = blurred(), planted_data(400)
    config = CONFIG.model_copy(update={"epochs": 40, "patience": 2, "learning_rate": 0.3})
    found = aligned(sae, data, config)
    losses = [epoch.validation["loss"] for epoch in found.epochs]
    assert found.best == int(np.argmin(losses)) + 1
    assert len(losses) == found.best + 2 < 40


def test_terms_fall_on_held_out_rows_when_they_are_all_that_counts() -> None:
    sae, data = blurred(), planted_data(800)
    for name in ("polarity", "mono"):
        none = dict.fromkeys(ALIGN_TERMS, 0.0)
        config = CONFIG.model_copy(update={"weights": Weights(**{**none, name: 1.0})})
        epochs = aligned(sae, data, config).epochs
        assert epochs[-1].validation[name] < epochs[0].validation[name]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    sae, data = blurred(), planted_data(800)
    config = CONFIG.model_copy(update={"epochs": 10})
    found, result = located(sae, data), aligned(sae, data, config)
    return compare(sae, result.sae, found.sets, data.of_split(1), data.of_split(2), LATENTS)


def test_on_test_rows_prototypicality_rises_and_poles_part(comparison: Comparison) -> None:
    named = comparison.named()
    assert named["align/change/prototypicality/mean"] > 0.01
    assert named["align/change/pair_cosine/mean"] < -0.05
    assert named.keys() <= NAMES
    assert all(map(math.isfinite, named.values()))


def test_before_and_after_are_scored_on_the_same_latents(comparison: Comparison) -> None:
    data, sae = planted_data(800), blurred()
    same = compare(sae, sae, located(sae, data).sets, data.of_split(1), data.of_split(2), LATENTS)
    named = same.named()
    assert all(value == 0 for name, value in named.items() if name.startswith("align/change/"))
    for name, value in same.before.named().items():
        assert comparison.before.named()[name] == value
        assert same.reidentified.named()[name] == pytest.approx(value)


def test_with_no_latent_above_the_threshold_nothing_is_trained() -> None:
    data = planted_data(200)
    sae = blurred()
    found = locate(sae, data.of_split(1), LATENTS.model_copy(update={"strong": 0.999}), Seed(0))
    result = align(sae, found, data.of_split(0), data.of_split(1), CONFIG, Seed(0))
    assert not len(result.trained)
    assert (result.epochs, result.best) == ([], 0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(tensors(result.sae).values(), tensors(sae).values(), strict=True)
    )
    assert result.sae is not sae


def test_rows_that_are_missing_and_losses_that_are_no_numbers_are_errors() -> None:
    sae, data = blurred(), planted_data(200)
    found, none = located(sae, data), data.take(np.arange(0))
    with pytest.raises(DataError, match="needs training rows"):
        align(sae, found, none, data.of_split(1), CONFIG, Seed(0))
    with pytest.raises(DataError, match="needs validation rows"):
        align(sae, found, data.of_split(0), none, CONFIG, Seed(0))
    wild = CONFIG.model_copy(update={"learning_rate": 1e30, "epochs": 5})
    with pytest.raises(TrainingError, match="must be a number"):
        align(sae, found, data.of_split(0), data.of_split(1), wild, Seed(0))


def test_a_topk_of_fewer_trained_latents_than_k_works() -> None:
    data = planted_data(200)
    sae = blurred("topk")
    config = LATENTS.model_copy(update={"per_dimension": 1, "per_pole": 1, "strict_ratio": 50.0})
    sae.config = CoderConfig(kind="topk", width=40, k=20)
    found = locate(sae, data.of_split(1), config, Seed(0))
    assert len(found.sets.trained()) < 20
    short = CONFIG.model_copy(update={"epochs": 1})
    result = align(sae, found, data.of_split(0), data.of_split(1), short, Seed(0))
    assert (result.sae.encode(data.rows.gather(3, np.arange(9))) > 0).sum(1).max() <= 20
