"""The benchmark of arms at toy size: every side runs, and they agree; no speed is asserted."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("arms")


def test_both_ways_decode_the_same_tokens_and_score_the_same_numbers(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main(
        ["--toy", "--rounds", "1", "--threads", "1", "--edits", "direction", "blend", "--json"]
    )
    found = json.loads(capsys.readouterr().out)
    for name in ("decode", "varied"):
        assert found[name]["equal"] == 1
        assert found[name]["tokens"] == 16 * 8 * bench.TOY_DECODE.new_tokens
        seconds = found[name]["seconds"]
        assert found[name]["ratio"] == pytest.approx(seconds["separate"] / seconds["shared"])
    assert set(found["grid"]) == {"direction", "blend"}
    for one in found["grid"].values():
        assert one["largest_difference"] < 1e-5
        assert one["arms"] == 24
    assert found["bfloat16"]["answers"] == 16 * 8
    assert 0 < found["bfloat16"]["equal"] <= 1
    lines = "\n".join(bench.report(found))
    assert "| decode: 16 arms x 8 prompts, 768 tokens |" in lines
    assert "| 100.0% of answers equal |" in lines


def test_an_edit_by_hook_is_off_afterwards(bench: ModuleType) -> None:
    model, (arms, materials) = (
        bench.make_model(bench.TOY_GRID),
        bench.make_arms(bench.TOY_GRID, "blend"),
    )
    prompts = bench.make_prompts([3, 4], 128)
    before = bench.score_naively(model, prompts, [5, 6], arms[:1], materials)
    again = bench.score_naively(model, prompts, [5, 6], arms[:1], materials)
    assert (before == again).all()
    assert not any(module._forward_hooks for module in model.modules())
