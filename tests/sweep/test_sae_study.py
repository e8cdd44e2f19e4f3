"""The study of autoencoders: a trial stays on the device that it was given, its model with it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trimtab.models.card import ModelConfig
from trimtab.sae.coder import CoderConfig
from trimtab.sae.config import TrainConfig
from trimtab.sae.rows import from_tensors
from trimtab.stream.activations import Activations
from trimtab.stream.train_config import SaeJob
from trimtab.sweep.studies import sae
from trimtab.sweep.studies.sae import SaeRunning


def test_a_trial_without_a_gpu_measures_without_one_and_has_let_go_of_its_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = from_tensors({2: torch.randn(40, 8, generator=torch.Generator().manual_seed(0))})
    nothing: list[Any] = [None] * len(Activations._fields)
    seen: list[tuple[str, bool]] = []

    def measured(job: SaeJob, _found: Any, _rows: Any, saes: Any, _report: Any) -> dict[int, Any]:  # noqa: ANN401
        seen.append((job.model.device, any(x.grad is not None for x in saes[2].parameters())))
        return {2: {"sae/mse": 1.0}}

    split = SimpleNamespace(train=rows, validation=rows, held_out=rows)
    monkeypatch.setattr(sae, "parts", lambda *_: split)
    monkeypatch.setattr(sae, "measure", measured)
    monkeypatch.setattr(sae, "about", lambda *_: None)
    monkeypatch.setattr(sae, "save_sae", lambda *_: None)
    config = TrainConfig(coder=CoderConfig(width=16, k=2), epochs=1.0, batch_size=20)
    job = SaeJob(model=ModelConfig(id="none"), layers=(2,), train=config)
    running = SaeRunning(job, Activations._make(nothing), torch.device("cpu"))
    assert [report.share for report in running.reports()] == [1.0]
    assert running.finish(tmp_path).scores["sae/mse"] == 1.0
    assert seen == [("cpu", False)]
