"""Finding latents on a GPU that is not there: the CPU's correlations, and no sum leaves it before the end."""

from collections import Counter

import numpy as np
import torch
from planted import planted_data, planted_sae
from pretend_gpus import pretend_gpus

from trimtab.locate.folds import correlate


def test_correlations_on_a_gpu_are_the_cpu_s_and_stay_there_until_the_last_batch() -> None:
    """With a hundred shuffles the sums are half a gigabyte, and there is a batch for 512 rows."""
    data = planted_data(400)
    sae = planted_sae("relu", width=40).requires_grad_(requires_grad=False)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(400), (3, 1)), axis=1)
    expected = correlate(sae, data, 50, orders)
    with torch.no_grad(), pretend_gpus() as waits:
        sae.to("cuda:0")
        waits.clear()
        found = correlate(sae, data, 50, orders)
        waited = Counter(waits)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert waited == {"__bool__": 400 // 50, "aten._to_copy": 2}
