from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from trimtab.core.rows import Labels, Rows
from trimtab.core.seeds import Seed
from trimtab.metrics.dimensional import metrics
from trimtab.metrics.released import BATCH, MAX_EPOCHS, Pairs, ReleasedReadout, initial, train


def torch_training(start: np.ndarray, training: Pairs, validation: Pairs, seed: int) -> np.ndarray:
    """The released recipe in torch, on the same start and the same order of rows."""
    linear = torch.nn.Linear(start.shape[0] - 1, 10, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(start[:-1].T))
        linear.bias.copy_(torch.tensor(start[-1]))
    optimiser = torch.optim.AdamW(linear.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=5)
    loss_of, draw, history = torch.nn.MSELoss(), np.random.default_rng(seed), []
    x, y = (torch.tensor(part) for part in training)
    for _ in range(MAX_EPOCHS):
        for batch in torch.tensor(draw.permutation(len(x))).split(BATCH):
            optimiser.zero_grad()
            loss_of(linear(x[batch]), y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            history.append(
                float(loss_of(linear(torch.tensor(validation.x)), torch.tensor(validation.y)))
            )
        schedule.step(history[-1])
        if len(history) - 1 - int(np.argmin(history)) == 10:
            break
    return np.vstack([linear.weight.detach().numpy().T, linear.bias.detach().numpy()])


@pytest.mark.parametrize("sign", [1, -1], ids=["all epochs", "stopped early"])
def test_training_gives_the_weights_that_torch_gives(sign: int) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(700, 6))
    y = x @ draw.normal(size=(6, 10)) + draw.normal(size=(700, 10))
    training, validation = Pairs(x[:600], y[:600]), Pairs(x[600:], sign * y[600:])
    start = initial(6, draw).astype(np.float64)
    ours = train(start, training, validation, np.random.default_rng(7))
    theirs = torch_training(start, training, validation, 7)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_r2_is_that_of_the_last_weights_on_the_test_rows(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(400, 8)
    fold = ReleasedReadout()
    result = fold.finish(fold.update(fold.zero(), rows))
    by_index = np.argsort(rows.labels.index)
    test = by_index[Seed(42).child("split").numpy().permutation(400)[320:]]
    predicted = rows.x[test] @ result.weights + result.intercept
    expected = r2_score(rows.labels.vector[test], predicted, multioutput="raw_values")
    np.testing.assert_allclose(result.r2_pole, expected, rtol=1e-4)
    values = metrics(result)
    assert values["dimensional/r2"] == pytest.approx(expected.mean(), rel=1e-4)
    assert values["dimensional/rows"] == 400
    assert "dimensional/ridge" not in values


def test_a_planted_linear_map_is_read_and_another_seed_reads_it_otherwise(
    make_labels: Callable[..., Labels],
) -> None:
    labels = make_labels(6000)
    rows = Rows(3 * labels.vector @ np.random.default_rng(0).normal(size=(10, 64)), labels)
    first, second = (
        fold.finish(fold.update(fold.zero(), rows)).r2
        for fold in (ReleasedReadout(), ReleasedReadout(seed=43))
    )
    assert first > 0.9
    assert first != second


def test_the_start_is_within_the_bounds_of_torchs_linear() -> None:
    start = initial(64, np.random.default_rng(0))
    assert start.shape == (65, 10)
    assert start.dtype == np.float32
    assert 0.12 < np.abs(start).max() <= 0.125
