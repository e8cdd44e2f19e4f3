"""The TopK benchmark at toy size, our sides only: batches, the limit and the table; no speed is asserted."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("sae")


@pytest.fixture
def setting(bench: ModuleType) -> object:
    return bench.Setting(
        d_model=16, width=64, k=4, batch=512, steps=70, learning_rate=1e-2, threads=1
    )


def test_our_sides_train_in_turn_to_the_same_error(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS.parent / "platform"))
    options = ["--cases", "toy", "--sides", "ours", "ours-bf16", "--rounds", "3", "--threads", "1"]
    bench.main([*options, "--json"])
    shown = capsys.readouterr()
    case = json.loads(shown.out)["cases"]["toy"]
    assert case["steps"] == 2 + 3 * 3
    assert [len(rounds) for rounds in case["rounds"].values()] == [3, 3]
    exact, bf16 = (case["unexplained"][side] for side in ("ours", "ours-bf16"))
    assert 0 < exact < 1
    assert bf16 == pytest.approx(exact, rel=0.02)
    dense, sparse = 2 * 32 * 16 * 64, 8 * 32 * 4 * 16
    assert case["limit"]["exact"] == pytest.approx((dense + sparse) / case["rate"]["float32"])
    assert case["share_of_limit"]["ours"] == pytest.approx(
        case["limit"]["exact"] / case["seconds"]["ours"]
    )
    assert "| ours-bf16 |" in shown.err
    assert "ours-bf16 over ours:" in shown.err


def test_all_sides_get_the_same_rows_in_the_same_order(
    bench: ModuleType, setting: object, tmp_path: Path
) -> None:
    bench.write_inputs(tmp_path, setting)
    order = load_file(tmp_path / "order.safetensors")["order"]
    assert order.shape == (128, 512)
    assert torch.equal(order[:64].flatten().sort().values, torch.arange(bench.ROWS))
    assert not torch.equal(order[:64], order[64:])
    rows = load_file(tmp_path / "rows.safetensors")["x"]
    assert float((rows - rows.mean(0)).square().mean()) == pytest.approx(1.0, rel=0.02)
    start = load_file(tmp_path / "start.safetensors")
    torch.testing.assert_close(start["W_dec"].norm(dim=1), torch.ones(64))
    torch.testing.assert_close(start["b_dec"], rows.mean(0))


def test_training_on_the_common_batches_explains_more(
    bench: ModuleType, setting: object, tmp_path: Path
) -> None:
    bench.write_inputs(tmp_path, setting)
    worker = sys.modules["sae_worker"]
    side = worker.Ours(setting, tmp_path)
    before = worker.unexplained(side, tmp_path)
    side.train(70)
    assert worker.unexplained(side, tmp_path) < 0.9 * before


def test_a_goal_that_is_missed_says_so(bench: ModuleType, setting: object) -> None:
    case = bench.Case(16, 64, 4, 512, 3, {("ours", "sparsify"): 1.5})
    seconds = {"ours": [1.0, 1.0, 9.0], "sparsify": [1.4, 1.4, 1.4]}
    rates = [{"float32": 1e9, "bfloat16": 1e9}]
    found = bench.summary(case, setting, seconds, {"ours": 0.52, "sparsify": 0.5}, rates)
    lines = "\n".join(bench.report("toy", found))
    assert "ours over sparsify: 1.40 x (goal 1.5 x: MISSED)" in lines
    assert "ours's error over the best peer's: 1.0400 (goal 1.01: MISSED)" in lines


def test_a_side_that_ends_is_an_error_that_names_it(bench: ModuleType, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="the side ours ended without an answer"),
        bench.worker("ours", tmp_path / "nowhere", bench.parse_options(["--sides", "ours"])),
    ):
        pass


def test_without_the_peers_environment_it_says_how_to_make_it(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--python", str(tmp_path / "python")])
    assert "run `make interop`" in capsys.readouterr().err


def test_eight_trials_end_alike_over_one_store_and_over_stores_of_their_own(
    bench: ModuleType,
) -> None:
    store = sys.modules["sae_store"]
    size = store.Size(layers=6, width=128, vocabulary=9_000)
    found = store.compare(size, width=64, rows=40)
    assert (found["trials"], found["rows"]) == (8, 40)
    assert found["own_stores"]["seconds"] > found["one_store"]["seconds"]
    assert "the weights are the same bits" in store.report(found)[-1]
