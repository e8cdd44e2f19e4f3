"""The 4-bit benchmark at toy size: every side loads and is counted; no speed is asserted."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        sys.modules.pop("fourbit", None)
        return importlib.import_module("fourbit")


@pytest.fixture(scope="module")
def folder(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "moe"
    bench.checkpoint.write(path, bench.checkpoint.shape(1, experts=16, width=128))
    spec = bench.ModelConfig(id=str(path), device="cpu")
    bench.save_quantized(spec, path / bench.SAVED)
    return path


def test_every_side_is_measured_and_only_ours_is_in_four_bits(
    bench: ModuleType, folder: Path
) -> None:
    sides = {side: bench.measure(side, folder) for side in bench.SIDES}
    assert sides["nf4"].held_bytes == sides["saved"].held_bytes
    assert "nf4" not in sides["bf16"].held_bytes
    dense = {name: side.held_bytes["bfloat16"] for name, side in sides.items()}
    assert dense["nf4"] < dense["stock"] < dense["bf16"]
    result = {
        "checkpoint_bytes": 1,
        "threads": 1,
        "sides": [side._asdict() | {"holds": side.holds} for side in sides.values()],
        "tokens_per_second": bench.speed(folder, rounds=1),
    }
    assert all(f"| {side} |" in bench.report(result) for side in bench.SIDES)


def test_a_peak_is_seen(bench: ModuleType) -> None:
    before = bench.anonymous_bytes()
    peak = bench.Peak()
    with peak:
        held = bytearray(b"x" * 50_000_000)
        bench.time.sleep(0.05)
        del held
    assert peak.bytes - before > 40_000_000
