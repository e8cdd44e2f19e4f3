"""How far NF4 moves the measures: the comparison itself."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from trimtab.core.config import load_job
from trimtab.models.card import ModelCard
from trimtab.stream.config import DiagnoseConfig
from trimtab.stream.diagnosis import Diagnosis
from trimtab.stream.measures import LayerResult

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nf4_benchmark", ROOT / "benchmarks" / "nf4.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(label: str, layers: list[dict[str, float]]) -> Diagnosis:
    card = ModelCard(label, label, "r", "qwen3", "base", "f", 2, 4, 9, "bfloat16", "t", "bfloat16")
    results = {i: LayerResult(metrics, None) for i, metrics in enumerate(layers)}
    return Diagnosis(card, results, {}, {}, Path(), reused=False)


def test_a_pair_is_read_at_the_exact_models_best_layer(benchmark: ModuleType) -> None:
    cosine, r2 = "categorical/cosine/mean", "dimensional/r2"
    exact = found("a-bf16", [{cosine: 0.5, r2: 0.1}, {cosine: 0.2, r2: 0.3}])
    packed = found("a-nf4", [{cosine: 0.1, r2: 0.2}, {cosine: 0.25}])
    first, second = benchmark.compare(exact, packed)
    assert (first["layer"], first["value_exact"], first["value_packed"]) == (1, 0.2, 0.25)
    assert first["largest_difference"] == pytest.approx(0.4)
    assert (second["layer"], second["layers"]) == (0, 1)
    assert "| a | dimensional/r2 | L0 | 0.100 | 0.200 | 0.100 (1 layers) |" in list(
        benchmark.report([first, second])
    )


def test_the_sweep_is_pairs_of_one_model_that_differ_in_precision_alone() -> None:
    models = load_job(ROOT / "sweeps" / "diagnose-nf4.yaml", DiagnoseConfig).models
    for exact, packed in zip(models[::2], models[1::2], strict=True):
        assert packed.precision == "nf4"
        same = packed.model_copy(update={"precision": "published", "name": exact.name})
        assert same == exact
