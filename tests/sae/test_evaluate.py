"""The quality of a sparse autoencoder on stored rows, against a plain computation."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import CoderError
from trimtab.core.fold import Fold
from trimtab.core.names import SAE_QUALITY
from trimtab.core.rows import Labels, Rows
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.evaluate import Quality, QualityFold, QualityState, quality
from trimtab.sae.rows import from_tensors

D, WIDTH, N = 6, 20, 64


def exact(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Few-bit numbers, so that float32 products and their sums are exact in any order."""
    return torch.randint(-8, 9, shape, generator=generator) / 8


def coder(kind: str = "relu", seed: int = 0) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(CoderConfig(kind=kind, width=WIDTH, k=4), D)
    with torch.no_grad():
        sae.W_enc.copy_(exact(generator, WIDTH, D))
        sae.W_dec.copy_(exact(generator, WIDTH, D))
        sae.b_enc.copy_(exact(generator, WIDTH) - 0.5)
        sae.b_dec.copy_(exact(generator, D))
        sae.center.copy_(exact(generator, D))
        sae.threshold.fill_(0.25)
        sae.b_enc[0] = -1_000.0  # a latent that is dead
    return sae


def activations(n: int = N, seed: int = 1) -> torch.Tensor:
    return exact(torch.Generator().manual_seed(seed), n, D) + 2


def identity(center: float = 3.0) -> Sae:
    """Reconstructs anything: relu(x) - relu(-x) = x."""
    sae = Sae(CoderConfig(kind="relu", width=2 * D), D)
    signs = torch.cat([torch.eye(D), -torch.eye(D)])
    with torch.no_grad():
        sae.W_enc.copy_(signs)
        sae.W_dec.copy_(signs)
        sae.center.fill_(center)
    return sae


def of(sae: Sae, x: torch.Tensor, batch: int = 1_024) -> Quality:
    return quality(sae, from_tensors({3: x}), 3, batch)


def unlabelled(x: torch.Tensor) -> Rows:
    n = len(x)
    nothing = np.zeros(n, np.int64)
    labels = Labels(
        index=np.arange(n),
        vector=np.zeros((n, 10)),
        typicality=np.zeros(n),
        **dict.fromkeys(("foundation", "pole", "polarity", "split"), nothing),
    )
    return Rows(x.numpy(), labels)


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
def test_every_number_is_that_of_a_plain_computation(kind: str) -> None:
    sae, x = coder(kind), activations()
    with torch.no_grad():
        z, out = sae.encode(x).numpy().astype(np.float64), sae(x).numpy().astype(np.float64)
    x64 = x.numpy().astype(np.float64)
    norms = np.linalg.norm(x64, axis=1), np.linalg.norm(out, axis=1)
    fvu = ((x64 - out) ** 2).sum() / ((x64 - x64.mean(0)) ** 2).sum()
    frequency = (z > 0).mean(0)
    expected = Quality(
        mse=((x64 - out) ** 2).mean(),
        explained_variance=1 - fvu,
        fvu=fvu,
        cossim=((x64 * out).sum(1) / norms[0] / norms[1]).mean(),
        l2_norm_in=norms[0].mean(),
        l2_norm_out=norms[1].mean(),
        l2_ratio=(norms[1] / norms[0]).mean(),
        relative_reconstruction_bias=(out**2).sum() / (x64 * out).sum(),
        l0=(z > 0).sum(1).mean(),
        l1=z.sum(1).mean(),
        frac_alive=(frequency > 0).mean(),
        dead=(frequency == 0).mean(),
        freq_over_1_percent=(frequency > 0.01).mean(),
        freq_over_10_percent=(frequency > 0.1).mean(),
    )
    assert of(sae, x)._asdict() == pytest.approx(expected._asdict(), rel=1e-6)
    assert expected.dead >= 1 / WIDTH


def test_a_coder_that_changes_nothing_is_perfect() -> None:
    found = of(identity(), activations())
    assert (found.mse, found.fvu, found.explained_variance) == (0, 0, 1)
    assert found.cossim == pytest.approx(1)
    assert found.l2_ratio == pytest.approx(1)
    assert found.relative_reconstruction_bias == pytest.approx(1)


def test_a_coder_that_says_only_the_mean_explains_no_variance() -> None:
    x = activations()
    sae = Sae(CoderConfig(kind="relu", width=WIDTH), D)
    sae.center.copy_(x.double().mean(0))
    found = of(sae, x)
    assert found.fvu == pytest.approx(1)
    assert (found.l0, found.l1, found.dead, found.frac_alive) == (0, 0, 1, 0)


def test_a_large_common_mean_does_not_hide_the_variance() -> None:
    x = activations()
    far = identity(center=3.0)
    with torch.no_grad():
        far.b_dec.fill_(0.25)
    shifted = identity(center=0.0)  # as an imported coder, which knows no centre
    with torch.no_grad():
        shifted.b_dec.fill_(0.25)
    assert of(shifted, x + 8_192).fvu == pytest.approx(of(far, x).fvu, rel=1e-9)


def test_it_is_a_fold_over_rows() -> None:
    fold = QualityFold(coder())
    assert isinstance(fold, Fold)
    x = activations()
    assert fold.finish(fold.update(fold.zero(), unlabelled(x))) == of(fold.sae, x)


def arrays(state: QualityState) -> Iterator[np.ndarray]:
    yield from (state.sums, state.moved, state.fired)


@given(data=st.data())
def test_any_cut_order_and_merge_tree_gives_what_one_update_gives(data: st.DataObject) -> None:
    fold, x = QualityFold(coder()), activations()
    order = np.array(data.draw(st.permutations(range(N))))
    cuts = sorted(data.draw(st.lists(st.integers(0, N), max_size=6)))
    states = [fold.seen(fold.zero(), x[block]) for block in np.split(order, cuts)]
    while len(states) > 1:
        b = states.pop(data.draw(st.integers(0, len(states) - 1)))
        a = states.pop(data.draw(st.integers(0, len(states) - 1)))
        states.append(fold.merge(a, b))
    once = fold.seen(fold.zero(), x)
    for left, right in zip(arrays(once), arrays(states[0]), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)
    np.testing.assert_array_equal(once.fired, states[0].fired)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_moves_no_number(batch: int) -> None:
    sae, x = coder(), activations()
    assert of(sae, x, batch)._asdict() == pytest.approx(of(sae, x)._asdict(), rel=1e-12)


def test_the_order_of_the_rows_moves_no_number() -> None:
    sae, x = coder(), activations()
    assert of(sae, x.flip(0))._asdict() == pytest.approx(of(sae, x)._asdict(), rel=1e-12)


def test_only_the_rows_taken_count() -> None:
    sae, x = coder(), activations()
    rows, half = from_tensors({0: x}), np.arange(N) % 2 == 0
    assert quality(sae, rows.take(half), 0) == quality(sae, from_tensors({0: x[half]}), 0)


@pytest.mark.parametrize(
    ("x", "undefined"),
    [
        (torch.zeros(0, D), set(Quality._fields)),
        (activations(1), {"fvu", "explained_variance"}),
        (activations(1).repeat(9, 1) / 3, {"fvu", "explained_variance"}),
    ],
    ids=["no row", "one row", "one row nine times"],
)
def test_what_is_undefined_is_not_reported(x: torch.Tensor, undefined: set[str]) -> None:
    named = of(coder(), x).named()
    assert {f"sae/{name}" for name in Quality._fields} - named.keys() == {
        f"sae/{name}" for name in undefined
    }


def test_a_row_of_zeros_has_no_direction_but_spoils_nothing() -> None:
    found = of(coder(), torch.cat([activations(), torch.zeros(1, D)]))
    assert np.isfinite(found).all()


def test_every_name_is_listed() -> None:
    found = of(coder(), activations())
    assert {*found.named(), *found.named("sae/token/")} <= set(SAE_QUALITY)


def test_the_same_rows_give_the_same_bits() -> None:
    assert of(coder(), activations()) == of(coder(), activations())


def test_a_coder_of_another_width_is_refused_with_both() -> None:
    with pytest.raises(CoderError, match="d_model 6 and those of layer 3 have 8"):
        of(coder(), torch.zeros(4, 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_numbers() -> None:
    found = of(coder().cuda(), activations())
    assert found._asdict() == pytest.approx(of(coder(), activations())._asdict(), rel=1e-9)
