"""What a report measures, against the definitions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from trimtab.sae import validation
from trimtab.sae.coder import Kind, Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.rows import from_tensors
from trimtab.sae.validation import measured

Configure = Callable[..., TrainConfig]
Draw = Callable[..., Tensor]


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_measures_are_their_definitions_however_rows_are_cut(
    config: Configure,
    random_sae: Callable[..., Sae],
    rows: Draw,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    chunk: int,
) -> None:
    monkeypatch.setattr(validation, "CHUNK_ROWS", chunk)
    sae, x = random_sae(config(kind), torch.float32), rows(20)
    which = np.arange(3, 20)
    found = measured(sae, from_tensors({5: x}), 5, which)
    x = x[3:]
    with torch.no_grad():
        error, z = (sae(x) - x).double(), sae.encode(x)
    assert found.mse == pytest.approx(float(error.square().mean()), rel=1e-5)
    spread = float((x.double() - x.double().mean(0)).square().sum())
    assert found.fvu == pytest.approx(float(error.square().sum()) / spread, rel=1e-4)
    assert found.l0 == pytest.approx(float((z > 0).double().sum(1).mean()))
    assert found.dead == pytest.approx(float((z == 0).all(0).double().mean()))


def test_a_coder_that_answers_with_the_mean_row_explains_nothing(
    config: Configure, rows: Draw
) -> None:
    x = rows(50)
    sae = Sae(config("relu").coder, x.shape[1])
    sae.center.copy_(x.mean(0))
    found = measured(sae, from_tensors({0: x}), 0, np.arange(50))
    assert found.fvu == pytest.approx(1.0, rel=1e-6)
    assert (found.l0, found.dead) == (0.0, 1.0)


def test_one_row_has_no_variance_to_explain(config: Configure) -> None:
    x = torch.zeros(1, 4)
    found = measured(Sae(config("relu").coder, 4), from_tensors({0: x}), 0, np.arange(1))
    assert np.isnan(found.fvu)
    assert found.mse == 0.0
