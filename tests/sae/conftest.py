"""Activations with structure: sparse sums of directions around a mean that is far from 0."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trimtab.sae.coder import Kind, Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.start import unit_rows

D_MODEL = 12


@pytest.fixture
def rows() -> Callable[..., Tensor]:
    """n rows of 24 directions, two of them active in a row on average."""

    def make(n: int, seed: int = 0, offset: float = 5.0) -> Tensor:
        directions = torch.randn(24, D_MODEL, generator=torch.Generator().manual_seed(99))
        generator = torch.Generator().manual_seed(seed)
        active = torch.rand(n, 24, generator=generator) < 2 / 24
        return (active * torch.rand(n, 24, generator=generator)) @ directions + offset

    return make


@pytest.fixture
def config() -> Callable[..., TrainConfig]:
    """A configuration that is quick; fields given replace its own."""

    def make(kind: Kind = "topk", width: int = 32, k: int = 4, **fields: object) -> TrainConfig:
        plain = {"epochs": 3.0, "batch_size": 20, "report_steps": 5, "learning_rate": 1e-2}
        coder = {"kind": kind, "width": width, "k": k}
        return TrainConfig.model_validate({"coder": coder, **plain, **fields})

    return make


@pytest.fixture
def random_sae() -> Callable[..., Sae]:
    """A coder with every weight drawn, in float64 if asked."""

    def make(config: TrainConfig, dtype: torch.dtype = torch.float64, d_model: int = 12) -> Sae:
        generator = torch.Generator().manual_seed(5)
        sae = Sae(config.coder, d_model).to(dtype)
        for weight in sae.parameters():
            weight.data.copy_(torch.randn(weight.shape, generator=generator, dtype=dtype))
            weight.grad = torch.full_like(weight, torch.nan)
        unit_rows(sae.W_dec)
        sae.threshold.fill_(0.3)
        sae.center.copy_(torch.randn(d_model, generator=generator, dtype=dtype))
        return sae

    return make
