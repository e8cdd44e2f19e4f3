"""Training rows through Ray Data: each of them once an epoch, and the same order each time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.core.errors import StoreError
from trimtab.core.seeds import Seed
from trimtab.sae.batches import Batches
from trimtab.sae.coder import CoderConfig
from trimtab.sae.config import TrainConfig
from trimtab.sae.start import moments
from trimtab.sae.training import Trainer
from trimtab.store.writer import Writer
from trimtab.stream.sae_batches import RayBatches

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
NUM_BLOCKS, BLOCK_ROWS, D_MODEL = 4, 30, 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Row i is i in each element at layer 1 and -i at layer 3, one row to a prompt."""
    writer = Writer(tmp_path_factory.mktemp("store"), {"model": "toy"}, ["mean"])
    for block in range(NUM_BLOCKS):
        index = np.arange(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
        value = torch.tensor(index, dtype=torch.float32).view(-1, 1).expand(-1, D_MODEL)
        x = {layer: (value * sign).bfloat16() for layer, sign in ((1, 1), (3, -1))}
        here = np.arange(BLOCK_ROWS)
        writer.write(block, "mean", x, here, index, [str(i) for i in index])
    return writer.finish(NUM_BLOCKS, {})


def test_rows_of_a_store_elsewhere_come_once_an_epoch_and_train_a_coder(store: Path) -> None:
    which = np.arange(NUM_BLOCKS * BLOCK_ROWS) % 3 != 0
    batches = RayBatches(store, "mean", (1, 3), which, 16, Seed(0))
    assert isinstance(batches, Batches)
    assert (batches.layers, batches.d_model, len(batches)) == ((1, 3), D_MODEL, which.sum())

    epochs = [list(batches.epoch(number, 0)) for number in (0, 0, 1)]
    seen = [torch.cat([batch[1][:, 0] for batch in epoch]) for epoch in epochs]
    expected = torch.from_numpy(np.flatnonzero(which)).float()
    for rows in seen:
        assert torch.equal(rows.sort().values, expected)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], expected)
    assert all(torch.equal(batch[3], -batch[1]) for batch in epochs[0])

    later = list(batches.epoch(0, 32))
    assert torch.equal(later[0][3], epochs[0][2][3])
    assert len(later) == len(epochs[0]) - 2
    mean = moments(batches.chunks(3), 3).mean
    torch.testing.assert_close(mean, torch.full_like(mean, -float(expected.mean())).double())

    one_layer = RayBatches(store, "mean", (3,), which, 16, Seed(0))
    config = TrainConfig(coder=CoderConfig(width=8, k=2), epochs=1.0, batch_size=16)
    (progress,) = Trainer(one_layer, None, config, Seed(0), torch.device("cpu")).run()
    assert progress.step == len(epochs[0])
    assert np.isfinite(progress.metrics[3]["train/fvu"])


def test_a_layer_that_the_store_lacks_is_refused_before_anything_is_read(store: Path) -> None:
    with pytest.raises(StoreError, match="does not keep layer 2"):
        RayBatches(store, "mean", (2,), np.ones(120, bool), 16, Seed(0))
