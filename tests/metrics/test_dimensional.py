from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from trimtab.core.rows import Labels, Rows
from trimtab.metrics.dimensional import Moments, Readout, metrics, state_bytes


def readout_of(rows: Rows, fold: Moments | None = None) -> Readout:
    fold = fold or Moments()
    return fold.finish(fold.update(fold.zero(), rows))


def split(rows: Rows, which: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = rows.labels.split == which
    return rows.x[chosen].astype(np.float64), rows.labels.vector[chosen]


def test_weights_and_r2_are_those_of_scikit_learns_ridge(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows()
    result = readout_of(rows)
    ridge = Ridge(alpha=result.penalty, solver="cholesky").fit(*split(rows, 0))
    np.testing.assert_allclose(result.weights, ridge.coef_.T, atol=1e-10)
    np.testing.assert_allclose(result.intercept, ridge.intercept_, atol=1e-10)
    x, y = split(rows, 2)
    scores = r2_score(y, ridge.predict(x), multioutput="raw_values")
    np.testing.assert_allclose(result.r2_pole, scores, atol=1e-10)
    assert metrics(result)["dimensional/r2"] == pytest.approx(scores.mean())


def test_the_ridge_is_the_best_of_the_grid_on_validation_rows(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows(300, 30, noise=1.0)
    grid = (100.0, 1.0, 1e-2, 1e-4)
    validation = []
    for ridge in grid:
        fit = readout_of(rows, Moments(ridges=(ridge,)))
        x, y = split(rows, 1)
        varying = y.std(axis=0) > 0
        scores = r2_score(y, x @ fit.weights + fit.intercept, multioutput="raw_values")
        validation.append(scores[varying].mean())
    chosen = readout_of(rows, Moments(ridges=grid)).ridge
    assert chosen == grid[int(np.argmax(validation))]
    assert chosen not in (grid[0], grid[-1])


def test_without_validation_rows_the_ridge_is_chosen_by_generalised_cross_validation(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows(80, 30, noise=1.0)
    rows.labels.split[rows.labels.split == 1] = 0
    x, y = split(rows, 0)
    x, centred = x - x.mean(axis=0), y - y.mean(axis=0)
    n, d = x.shape
    grid, scores = tuple(np.logspace(2, -4, 200).tolist()), []
    for ridge in grid:
        penalty = ridge * np.trace(x.T @ x) / d
        hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(d), x.T) + 1 / n
        error = ((centred - hat @ centred) ** 2).sum(axis=0) / (centred**2).sum(axis=0)
        scores.append(error.mean() / (1 - np.trace(hat) / n) ** 2)
    assert readout_of(rows, Moments(ridges=grid)).ridge == grid[int(np.argmin(scores))]
    assert 0 < np.argmin(scores) < len(grid) - 1


def test_a_planted_linear_map_is_found(make_labels: Callable[..., Labels]) -> None:
    labels = make_labels(400)
    draw = np.random.default_rng(0)
    mixing = draw.normal(size=(10, 16))
    noise_free = Rows(labels.vector @ mixing + 100 * draw.normal(size=16), labels)
    result = readout_of(noise_free)
    assert result.r2 == pytest.approx(1.0, abs=1e-6)
    unrelated = Rows(draw.normal(size=(400, 16)), labels)
    assert readout_of(unrelated).r2 < 0.05


def test_massive_activations_do_not_spoil_the_readout(make_labels: Callable[..., Labels]) -> None:
    labels = make_labels(400)
    draw = np.random.default_rng(0)
    x = labels.vector @ draw.normal(size=(10, 12)) + 0.02 * draw.normal(size=(400, 12))
    plain = readout_of(Rows(x, labels))
    x = np.hstack([x, 1e4 + 1e2 * draw.normal(size=(400, 1))])
    massive = readout_of(Rows(x.astype(np.float32), labels))
    assert plain.r2 > 0.8
    assert massive.r2 == pytest.approx(plain.r2, abs=0.01)


def test_an_output_that_is_constant_on_test_rows_is_left_out_of_the_mean(
    make_rows: Callable[..., Rows],
) -> None:
    rows = make_rows()
    rows.labels.vector[rows.labels.split == 2, 4] = 0.25
    values = metrics(readout_of(rows))
    assert "dimensional/r2_pole/loyalty" not in values
    poles = [value for name, value in values.items() if "r2_pole" in name]
    assert len(poles) == 9
    assert values["dimensional/r2"] == pytest.approx(np.mean(poles))


def test_adjusted_r2_follows_its_formula_and_is_undefined_for_as_many_columns_as_rows(
    make_rows: Callable[..., Rows],
) -> None:
    values = metrics(readout_of(make_rows(240, 8)))
    expected = 1 - (1 - values["dimensional/r2"]) * 239 / (240 - 8 - 1)
    assert values["dimensional/r2_adjusted"] == pytest.approx(expected)
    assert values["dimensional/rows"] == 240
    assert "dimensional/r2_adjusted" in metrics(readout_of(make_rows(42, 40)))
    assert "dimensional/r2_adjusted" not in metrics(readout_of(make_rows(41, 40)))


@pytest.mark.parametrize("missing", [0, 2])
def test_without_training_or_test_rows_there_is_no_r2(
    missing: int, make_rows: Callable[..., Rows]
) -> None:
    rows = make_rows()
    present = rows.labels.split != missing
    values = metrics(readout_of(Rows(rows.x[present], rows.labels.take(present))))
    assert not any(name.startswith("dimensional/r2") for name in values)
    assert values["dimensional/width"] == 8


def test_state_bytes_is_what_the_state_holds(make_rows: Callable[..., Rows]) -> None:
    fold = Moments()
    state = fold.update(fold.zero(), make_rows(240, 8))
    held = sum(
        array.nbytes for m in state.splits for array in vars(m).values() if hasattr(array, "nbytes")
    )
    assert state_bytes(8) == held
