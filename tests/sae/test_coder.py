"""The four kinds of coder as they are used."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trimtab.core.config import build
from trimtab.core.errors import ConfigError
from trimtab.sae.coder import CoderConfig, Kind, Sae
from trimtab.sae.config import TrainConfig

Configure = Callable[..., TrainConfig]
KINDS: tuple[Kind, ...] = ("relu", "topk", "batchtopk", "jumprelu")


def identity(kind: Kind, k: int = 2, threshold: float = 0.0) -> Sae:
    """Four latents that read and write one element each, around a centre of 10."""
    sae = Sae(CoderConfig(kind=kind, width=4, k=k), 4)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
        sae.W_dec.copy_(torch.eye(4))
    sae.center.fill_(10.0)
    sae.threshold.fill_(threshold)
    return sae.requires_grad_(False)


X = torch.tensor([[1.0, 3.0, -2.0, 2.0], [-1.0, -2.0, 0.5, -3.0]]) + 10


@pytest.mark.parametrize(
    ("kind", "z"),
    [
        ("relu", [[1, 3, 0, 2], [0, 0, 0.5, 0]]),
        ("topk", [[0, 3, 0, 2], [0, 0, 0.5, 0]]),
        ("batchtopk", [[0, 3, 0, 2], [0, 0, 0, 0]]),
        ("jumprelu", [[0, 3, 0, 2], [0, 0, 0, 0]]),
    ],
)
def test_each_kind_keeps_what_its_activation_keeps(kind: Kind, z: list[list[float]]) -> None:
    sae = identity(kind, threshold=1.5)
    assert sae.encode(X).tolist() == z
    assert torch.equal(sae(X), torch.tensor(z) + 10)


def test_a_threshold_is_not_passed_by_its_own_value() -> None:
    assert identity("jumprelu", threshold=3.0).encode(X)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reconstruction_is_the_decoded_latents(
    kind: Kind, config: Configure, random_sae: Callable[..., Sae]
) -> None:
    sae = random_sae(config(kind))
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(sae(x), sae.decode(sae.encode(x)), rtol=1e-12, atol=1e-12)
    assert sae(x).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_latents_do_not_depend_on_its_batch(
    kind: Kind, config: Configure, random_sae: Callable[..., Sae]
) -> None:
    sae = random_sae(config(kind))
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(sae.encode(x)[2:4], sae.encode(x[2:4]), rtol=1e-12, atol=1e-12)


def test_active_latents_are_the_encoding_without_its_zeros(
    config: Configure, random_sae: Callable[..., Sae]
) -> None:
    sae = random_sae(config("topk"))
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, latents = sae.active(x)
    z: Tensor = torch.zeros(6, 32, dtype=torch.float64).scatter_(1, latents, values)
    assert torch.equal(z, sae.encode(x))


def test_no_row_has_no_latents() -> None:
    for kind in KINDS:
        assert identity(kind).encode(X[:0]).shape == (0, 4)
        assert identity(kind)(X[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    "tree", [{"width": 4, "k": 5}, {"width": 0}, {"width": 4, "k": 0}, {"width": 4, "kind": "l1"}]
)
def test_a_width_k_or_kind_out_of_range_is_an_error(tree: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="not a valid CoderConfig"):
        build(CoderConfig, tree, "here")


def test_kinds_without_k_ignore_it() -> None:
    assert CoderConfig(kind="relu", width=4, k=32).width == 4
