"""Locating moral latents in coders where they are known."""

import dataclasses

import numpy as np
import pytest
import torch
from planted import planted_data, planted_sae
from scipy.stats import spearmanr

from trimtab.core.errors import ActivationError, CoderError, DataError
from trimtab.core.fold import Fold
from trimtab.core.names import NAMES
from trimtab.core.rows import Rows
from trimtab.core.seeds import Seed
from trimtab.locate.config import LatentConfig
from trimtab.locate.folds import Correlations, Data, columns, correlate, rank_correlations
from trimtab.locate.latents import Located, locate, score
from trimtab.sae.coder import CoderConfig, Kind, Sae
from trimtab.sae.rows import from_tensors

CONFIG = LatentConfig(min_rows=10, num_prototypes=1, permutations=30, batch=64)
KINDS: tuple[Kind, ...] = ("relu", "topk", "batchtopk", "jumprelu")


@pytest.fixture(scope="module")
def found() -> Located:
    return locate(planted_sae(), planted_data(), CONFIG, Seed(0))


def test_planted_latents_are_found_strict_and_significant(found: Located) -> None:
    assert found.strict[:10].all()
    assert [int(s[0]) for s in found.sets.dimensions] == list(range(10))
    assert found.significant[np.arange(10), np.arange(10)].all()
    assert found.significant.sum() < 25
    assert (found.scores.prototypicality > 0.9).all()
    assert found.shares["above"].observed > found.shares["above"].chance
    assert "follows" in found.outcome


def test_a_dead_latent_is_weak_undefined_and_counted(found: Located) -> None:
    assert found.active[-1] == 0
    assert np.isnan(found.r[-1]).all()
    assert np.isnan(found.rho[-1]).all()
    assert found.classes[-1] == 0
    assert found.scores.dead == 1


@pytest.mark.parametrize("kind", KINDS)
def test_correlations_are_numpys_and_scipys_on_dense_latents(kind: Kind) -> None:
    sae, data = planted_sae(kind), planted_data(150)
    z = sae.encode(data.rows.gather(3, np.arange(150))).numpy()
    found = correlate(sae, data, 47)
    rho = rank_correlations(sae, data, found.active, 47)
    for i in (0, 3, 12):
        for d in (0, 3, 9):
            y = data.labels.vector[:, d]
            assert found.r[i, d] == pytest.approx(np.corrcoef(z[:, i], y)[0, 1], abs=1e-6)
            assert rho[i, d] == pytest.approx(spearmanr(z[:, i], y).statistic, abs=1e-9)
    np.testing.assert_allclose(columns(sae, data, np.array([3, 12]), 47), z[:, [3, 12]], atol=1e-6)


def test_the_fold_is_a_fold_and_shuffles_move_the_labels_only() -> None:
    sae, data = planted_sae(), planted_data(60)
    order = np.random.default_rng(0).permutation(60)
    fold = Correlations(sae, data.labels.vector, order[None])
    assert isinstance(fold, Fold)
    x = data.rows.gather(3, np.arange(60)).numpy()
    parts = np.array_split(np.random.default_rng(1).permutation(60), 4)
    state = fold.zero()
    for part in parts:
        state = fold.update(state, Rows(x[part], data.labels.take(part)))
    shuffled = fold.finish(state).shuffled[0]
    relabelled = dataclasses.replace(data.labels, vector=data.labels.vector[order])
    expected = correlate(sae, data._replace(labels=relabelled), 60).r
    np.testing.assert_allclose(shuffled, expected, atol=1e-9)


def test_the_same_seed_gives_the_same_bits_and_batches_change_only_rounding() -> None:
    sae, data = planted_sae(), planted_data()
    a, b = (locate(sae, data, CONFIG, Seed(1)) for _ in range(2))
    np.testing.assert_array_equal(a.r, b.r)
    assert a.named() == b.named()
    other = locate(sae, data, CONFIG.model_copy(update={"batch": 33}), Seed(1))
    assert other.named() == pytest.approx(a.named(), abs=1e-6)


def test_labels_without_meaning_give_a_ratio_within_chance() -> None:
    sae, data = planted_sae(width=200), planted_data(300)
    blind = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    data = data._replace(rows=from_tensors({3: blind}), prompt=np.arange(300))
    found = locate(sae, data, CONFIG, Seed(0))
    ratio = found.shares["monosemantic"]
    assert ratio.low <= ratio.observed <= ratio.high
    assert ratio.p > 0.05
    assert found.significant.sum() <= 2


def test_no_latent_above_the_threshold_is_an_outcome_that_says_the_best_value() -> None:
    config = CONFIG.model_copy(update={"strong": 0.99})
    found = locate(planted_sae(), planted_data(noise=1.0), config, Seed(0))
    assert not found.sets.found
    assert found.outcome.startswith("No latent is above |r| = 0.99; the best value found: latent")
    dead = planted_sae()
    dead.b_enc.fill_(-100.0)
    assert "No latent varies" in locate(dead, planted_data(), CONFIG, Seed(0)).outcome


def test_every_metric_has_a_listed_name(found: Located) -> None:
    assert found.named().keys() <= NAMES
    assert np.isfinite(list(found.named().values())).all()


def test_scores_on_the_identifying_rows_are_the_located_ones(found: Located) -> None:
    again = score(planted_sae(), planted_data(), found.sets, CONFIG)
    assert again.named() == found.scores.named()


def test_without_shuffles_nothing_is_said_about_chance() -> None:
    config = CONFIG.model_copy(update={"permutations": 0})
    found = locate(planted_sae(), planted_data(), config, Seed(0))
    assert not any("chance" in name for name in found.named())
    assert not found.significant.any()


def test_what_does_not_fit_is_refused() -> None:
    data = planted_data(40)
    wide = Sae(CoderConfig(kind="relu", width=8), 12)
    with pytest.raises(CoderError, match="d_model 12 and layer 3 has 16"):
        locate(wide, data, CONFIG, Seed(0))
    with pytest.raises(DataError, match="At least 3 rows"):
        locate(planted_sae(), data.take(np.arange(2)), CONFIG, Seed(0))
    broken = planted_sae()
    broken.W_enc[2, 2] = float("nan")
    with pytest.raises(ActivationError, match="finite"):
        locate(broken, data, CONFIG, Seed(0))


def test_a_split_keeps_rows_labels_and_prompts_together() -> None:
    data = planted_data(40)
    part: Data = data.of_split(1)
    which = np.flatnonzero(data.labels.split == 1)
    assert part.labels.index.tolist() == which.tolist()
    assert part.prompt.tolist() == data.prompt[which].tolist()
    x = part.rows.gather(3, np.arange(len(which)))
    torch.testing.assert_close(x, data.rows.gather(3, which))
