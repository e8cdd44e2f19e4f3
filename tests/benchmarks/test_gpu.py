"""The GPU benchmark at toy size on a CPU: every case, end to end; no speed is asserted."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM

from trimtab.core.errors import ModelError
from trimtab.models.blocks import find_decoder
from trimtab.models.card import ModelConfig
from trimtab.models.engine import Engine, Request
from trimtab.models.packed import packings
from trimtab.models.streamed import open_streamed

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("gpu")


@pytest.fixture(scope="module")
def models(bench: ModuleType) -> ModuleType:
    return sys.modules["gpu_models"]


@pytest.fixture(scope="module")
def cases(bench: ModuleType) -> ModuleType:
    return sys.modules["gpu_cases"]


def test_all_cases_run_at_toy_size_without_ray_and_mlflow_and_polars() -> None:
    code = (
        "import sys, gpu\n"
        "code = gpu.main(['--device', 'cpu', '--toy', '--json'])\n"
        "heavy = {'ray', 'mlflow', 'polars'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    path = f"{BENCHMARKS}:{BENCHMARKS.parent / 'platform'}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["machine"]["torch"] == torch.__version__
    assert found["matrix"]["operations_per_second"] > 0
    assert list(found["cases"]) == [
        "qwen3-8b", "qwen3-8b-nf4", "qwen3-235b-nf4", "gpt-oss-120b", "layer-major",
        "sae-topk", "sae-relu", "blend",
    ]  # fmt: skip
    coders = [found["cases"].pop(name) for name in ("sae-topk", "sae-relu")]
    for coder in coders:
        assert coder["rows_per_second"] == pytest.approx(32 * coder["steps_per_second"])
        bound = sum(coder["bound_seconds"].values()) / coder["seconds"]
        assert coder["share_of_bound"] == pytest.approx(bound)
        assert coder["host_steps_per_second"] > 0
    blend = found["cases"].pop("blend")
    assert list(blend["kinds"]) == ["relu", "topk"]
    for one in blend["kinds"].values():
        assert one["alone_seconds"] > 0
        assert one["over_share"] == pytest.approx(one["overhead"] / one["share_of_bytes"])
    relu, topk = (one["bytes"] for one in blend["kinds"].values())
    assert relu >= topk  # equal at toy size, where all decoder rows are some row's
    for case in found["cases"].values():
        assert case["prompts"] == 64
        assert 64 * 3 <= case["tokens"] <= 64 * 29
        share = case["tokens_per_second"] * case["flops_per_token"]
        assert share / found["matrix"]["operations_per_second"] == pytest.approx(
            case["share_of_matrix_rate"]
        )
        assert case["tokens_per_second"] == pytest.approx(case["tokens"] / case["seconds"])
    assert set(found["cases"]["qwen3-8b"]["by_budget"]) == {"128", "256"}
    assert found["cases"]["layer-major"]["bytes_per_pass"] > 0


def test_one_failing_case_is_reported_and_the_others_go_on(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device", "cpu", "--toy", "--folder", str(tmp_path / "nowhere")]
    code = bench.main([*options, "--cases", "layer-major", "qwen3-8b"])
    shown = capsys.readouterr().out
    assert code == 1
    assert "layer-major FAILED: FileNotFoundError" in shown
    assert "| qwen3-8b | bf16 | 2 |" in shown


def test_the_bound_of_a_training_step_is_its_products_and_its_bytes(bench: ModuleType) -> None:
    size = bench.gpu_sae.CoderSize(d_model=8, width=100, k=4, batch=10, batches=2)
    topk = bench.gpu_sae.bound_seconds("topk", size, rate=1e3, bandwidth=1e3)
    relu = bench.gpu_sae.bound_seconds("relu", size, rate=1e3, bandwidth=1e3)
    assert topk == {"products": 16.0, "entries": 40 * 4 * 8 * 4 / 1e3, "optimiser": 44.8}
    assert relu == {"products": 80.0, "entries": 0.0, "optimiser": 44.8}


def test_a_training_step_has_a_table_of_its_own(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--device", "cpu", "--toy", "--cases", "sae-topk"]) == 0
    shown = capsys.readouterr().out
    assert "training step, 64 x 256, k 4" in shown
    assert "| sae-topk | 32 |" in shown
    assert "tokens/s" not in shown


@NO_CUDA
def test_without_a_gpu_it_is_skipped_with_a_reason(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main([]) == 0
    assert "Skipped: torch" in (shown := capsys.readouterr().out)
    assert "no CUDA device" in shown
    assert bench.main(["--json"]) == 0
    assert "no CUDA device" in json.loads(capsys.readouterr().out)["skipped"]


def test_a_cpu_is_for_toy_sizes(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--device", "cpu"])
    assert "give --toy too" in capsys.readouterr().err
    assert bench.parse_options(["--device", "cpu", "--cases", "blend"]).cases == ["blend"]


@pytest.mark.gpu
@CUDA
def test_all_cases_run_at_toy_size_on_a_gpu(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--toy", "--json"]) == 0
    for case in json.loads(capsys.readouterr().out)["cases"].values():
        assert case["peak_bytes"] > 0


def test_lengths_are_the_dev_files_whatever_the_count(bench: ModuleType) -> None:
    assert sum(bench.LENGTHS.values()) == 14_614
    once = bench.draw_lengths(14_614)
    assert {length: once.count(length) for length in bench.LENGTHS} == bench.LENGTHS
    assert once != sorted(once)
    assert bench.draw_lengths(20_000) == once + once[: 20_000 - 14_614]


def test_four_bits_are_refused_on_a_transformers_they_were_not_made_for(
    models: ModuleType,
) -> None:
    models.check_transformers("5.23.1")
    for other in ("5.17.0", "5.230.0", "6.0.0"):
        with pytest.raises(ModelError, match=r"need transformers 5\.23"):
            models.check_transformers(other)


@pytest.mark.parametrize(
    ("shape", "precision"),
    [("qwen3", "bf16"), ("qwen3", "nf4"), ("qwen3_moe", "nf4"), ("gpt_oss", "mxfp4")],
)
def test_a_model_is_made_in_what_it_is_held_in(
    bench: ModuleType, models: ModuleType, shape: str, precision: str
) -> None:
    made = models.make(bench.TOYS[shape], precision, CPU)
    kept = {"bf16": "bfloat16"}.get(precision, precision)
    assert made.held[kept] > 0
    assert sum(made.held.values()) == pytest.approx(
        made.weights.parts.bytes_in(precision), rel=0.01
    )
    packed = [x for module in made.model.modules() for x in packings(module)]
    assert len(packed) == (4 if shape != "qwen3" else 0)
    assert not any(tensor.is_meta for tensor in made.model.state_dict().values())


def test_padded_loop_and_engine_pool_the_same_numbers(
    bench: ModuleType, models: ModuleType, cases: ModuleType
) -> None:
    made = models.make(bench.TOYS["qwen3"], "bf16", CPU)
    made.model.float()
    prompts = cases.draw_prompts(bench.draw_lengths(20), 512)
    padded = cases.run_padded(made.model, prompts, CPU)
    pooled = Engine(made.decoder, Request(layers=(0, 1)), CPU).extract(prompts).pooled
    torch.testing.assert_close(padded[0], pooled["mean", 0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(padded[1], pooled["mean", 1])  # transformers normalises its last


def test_a_written_checkpoint_loads_and_streams_to_the_same_bits(
    bench: ModuleType, models: ModuleType, cases: ModuleType, tmp_path: Path
) -> None:
    config = models.configuration(bench.TOYS["streamed"])
    size = models.write_checkpoint(tmp_path, config, CPU)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert size == sum(parameter.nbytes for parameter in loaded.parameters())
    prompts = cases.draw_prompts(bench.draw_lengths(20), 512)
    pooled = [
        Engine(source, Request(layers=(0, 3)), CPU).extract(prompts).pooled
        for source in (
            find_decoder(loaded),
            open_streamed(ModelConfig(id=str(tmp_path), device="cpu")),
        )
    ]
    for key, rows in pooled[0].items():
        torch.testing.assert_close(rows, pooled[1][key], rtol=0, atol=1e-5)


def test_a_checkpoint_that_streams_is_cut_to_the_room_there_is(
    bench: ModuleType, cases: ModuleType, tmp_path: Path
) -> None:
    shape = bench.TOYS["streamed"]
    weights = cases.weigh(cases.configuration(shape))
    each = 2 * weights.largest_block.total + 4 * 10 * shape.d_model
    ends = 2 * weights.parts.embedding

    def layers(room: float) -> int:
        setup = cases.Setup(CPU, 1.0, [5] * 10, 8, [128], tmp_path, room=room, capped=False)
        return cases._cut_to_room(setup, shape).num_layers

    assert layers(1e9) == 4
    assert layers(ends + 3.5 * each) == 3
    with pytest.raises(ModelError, match="Give another --folder"):
        layers(ends + each)
