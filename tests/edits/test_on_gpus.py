"""Aligning on a GPU that is not there, as far as one without gradients goes."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from planted import planted_data, planted_sae
from pretend_gpus import pretend_gpus

from trimtab.core.seeds import Seed
from trimtab.edits.align import Alignment
from trimtab.edits.align_config import AlignConfig
from trimtab.locate.config import LatentConfig
from trimtab.locate.latents import locate

LATENTS = LatentConfig(min_rows=10, permutations=0, per_dimension=3, per_pole=2, num_prototypes=1)
CONFIG = AlignConfig(latents=LATENTS, epochs=4, batch=100, learning_rate=1e-2)
GPU = torch.device("cuda", 0)


def begun(device: torch.device) -> Alignment:
    data = planted_data(400)
    train, validation = data.of_split(0), data.of_split(1)
    sae = planted_sae("relu", width=40).requires_grad_(requires_grad=False)
    found = locate(sae, validation, LATENTS, Seed(0))
    return Alignment(sae.to(device), found, train, validation, CONFIG, Seed(0))


def test_losses_on_a_gpu_are_the_cpu_s_and_a_batch_waits_for_it_a_few_times() -> None:
    expected = begun(torch.device("cpu"))._held_out()
    with torch.no_grad(), pretend_gpus() as waits:
        alignment = begun(GPU)
        waits.clear()
        found = alignment._held_out()
        waited = Counter(waits)
    assert found == pytest.approx(expected, rel=1e-5)
    assert waited == {"__bool__": 1, "tolist": 2, "aten._to_copy": 1}  # there is one batch


def test_what_was_saved_is_taken_up_on_the_device_at_hand(tmp_path: Path) -> None:
    """AdamW counts its steps on the CPU: on a GPU it would wait for the count at each of them."""
    first = begun(torch.device("cpu"))
    next(first.run())
    first.save(tmp_path / "state.pt")
    with torch.no_grad(), pretend_gpus():
        second = begun(GPU)
        second.load(tmp_path / "state.pt")
        assert {one.device for one in second._kept} == {GPU}
        for state in second._optimiser.state.values():
            assert (state["step"].device.type, state["exp_avg"].device) == ("cpu", GPU)
        found = second.result()
    for ours, theirs in zip(found.sae.parameters(), first.result().sae.parameters(), strict=True):
        assert torch.equal(ours.cpu(), theirs)
