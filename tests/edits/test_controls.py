import copy

import pytest
import torch
from armed_toys import D_MODEL, WIDTH, make_sae

from trimtab.core.errors import CoderError
from trimtab.core.seeds import Seed
from trimtab.edits.controls import (
    changed_latents,
    decoder_row,
    difference_of_means,
    latent_direction,
    random_direction,
    random_latents,
)
from trimtab.sae.coder import Sae

CHANGED = [3, 17, 40]


def aligned_copy(plain: Sae) -> Sae:
    aligned = copy.deepcopy(plain)
    generator = torch.Generator().manual_seed(5)
    for number, latent in enumerate(CHANGED, 1):
        aligned.W_enc[latent] += number * torch.randn(D_MODEL, generator=generator)
        aligned.W_dec[latent] += 0.1 * number * torch.randn(D_MODEL, generator=generator)
        aligned.b_enc[latent] += number
    return aligned


def moved(control: Sae, plain: Sae, name: str) -> torch.Tensor:
    change = (getattr(control, name) - getattr(plain, name))[changed_latents(plain, control)]
    return change.view(len(change), -1).norm(dim=1).sort().values


def test_random_latents_are_as_many_others_moved_as_far() -> None:
    plain = make_sae("relu")
    aligned = aligned_copy(plain)
    control = random_latents(plain, aligned, Seed(1))
    chosen = changed_latents(plain, control)
    assert len(chosen) == len(CHANGED)
    assert not set(chosen.tolist()) & set(CHANGED)
    for name in ("W_enc", "b_enc", "W_dec"):
        torch.testing.assert_close(moved(control, plain, name), moved(aligned, plain, name))
    assert torch.equal(control.b_dec, plain.b_dec)
    assert changed_latents(plain, aligned).tolist() == CHANGED


def test_random_latents_repeat_by_seed_and_come_from_those_that_fire() -> None:
    plain = make_sae("relu")
    aligned = aligned_copy(plain)
    fires = torch.zeros(WIDTH, dtype=torch.bool)
    fires[[3, 5, 6, 7, 8]] = True
    first, again, other = (random_latents(plain, aligned, Seed(seed), fires) for seed in (1, 1, 2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(first.W_enc, other.W_enc)
    assert set(changed_latents(plain, first).tolist()) <= {5, 6, 7, 8}


def test_too_few_latents_to_draw_from_is_an_error() -> None:
    plain = make_sae("relu")
    fires = torch.zeros(WIDTH, dtype=torch.bool)
    fires[[3, 5, 6]] = True
    with pytest.raises(CoderError, match="only 2 of 64 are unchanged and fire"):
        random_latents(plain, aligned_copy(plain), Seed(1), fires)


def test_no_change_gives_the_same_coder_and_another_shape_is_refused() -> None:
    plain = make_sae("relu")
    assert torch.equal(random_latents(plain, plain, Seed(0)).W_enc, plain.W_enc)
    with pytest.raises(CoderError, match="one shape"):
        random_latents(plain, make_sae("relu", d_model=48), Seed(0))


def test_a_random_direction_has_the_length_asked_for_and_repeats() -> None:
    like = torch.arange(1.0, D_MODEL + 1)
    first, again, other = (random_direction(like, Seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first.norm(), like.norm())
    assert abs(float(first @ other / like.norm() ** 2)) < 0.9


def test_directions_are_their_definitions() -> None:
    a, b = torch.randn(5, D_MODEL), torch.randn(9, D_MODEL)
    torch.testing.assert_close(b.mean(0) + difference_of_means(a, b), a.mean(0))
    sae = make_sae()
    assert torch.equal(decoder_row(sae, 7), sae.W_dec[7])
    with pytest.raises(CoderError, match="latent=64, width=64"):
        decoder_row(sae, 64)


def test_a_latents_direction_is_that_of_the_latent_that_differs_most() -> None:
    sae = make_sae("relu")
    sae.W_enc.requires_grad_(True)
    toward, away = torch.randn(6, D_MODEL) + sae.W_dec[9].detach(), torch.randn(4, D_MODEL)
    acts = [sae.encode(rows).detach().numpy().mean(0) for rows in (toward, away)]
    differs = acts[0] - acts[1]
    latent = abs(differs).argmax()
    expected = float(differs[latent]) * sae.W_dec[latent].detach()
    found = latent_direction(sae, toward, away)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(latent_direction(sae, away, toward), -expected)
    with pytest.raises(CoderError, match="as active on these as on those"):
        latent_direction(sae, away, away)
