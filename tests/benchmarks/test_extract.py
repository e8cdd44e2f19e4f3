"""The extraction benchmark at toy size: all sides compute the same; no speed is asserted."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from trimtab.models.blocks import find_decoder
from trimtab.models.engine import Prompt
from trimtab.stream.config import DataConfig
from trimtab.stream.scenarios import read

PATH = Path(__file__).parents[2] / "benchmarks" / "extract.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_extract", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return read(DataConfig(subset=None), tmp_path_factory.mktemp("out")).table.head(150)


@pytest.fixture(scope="module")
def tokenizer(bench: ModuleType, table: pl.DataFrame) -> PreTrainedTokenizerFast:
    return bench.train_tokenizer(bench.prompts_of(table["action"]))


@pytest.fixture(scope="module")
def model(bench: ModuleType) -> PreTrainedModel:
    return bench.make_model(bench.Size(layers=3, width=128, vocabulary=8_192))


@pytest.fixture(scope="module")
def prompts(
    bench: ModuleType, table: pl.DataFrame, tokenizer: PreTrainedTokenizerFast
) -> list[Prompt]:
    return bench.row_prompts(table, tokenizer)


def test_engine_and_padded_loop_pool_the_same_numbers(
    bench: ModuleType, model: PreTrainedModel, prompts: list[Prompt]
) -> None:
    decoder = find_decoder(model)
    engine = bench.run_engine(decoder, prompts)
    for padded in (bench.run_padded(model, prompts), bench.run_padded(decoder.module, prompts)):
        assert len(padded) == len(engine) == 3
        for ours, theirs in list(zip(engine, padded, strict=True))[:-1]:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_bound_ends_in_the_engines_last_layer_bit_for_bit(
    bench: ModuleType, model: PreTrainedModel, prompts: list[Prompt]
) -> None:
    decoder = find_decoder(model)
    unique, _ = bench.once_each(prompts)
    hidden = bench.prepare_bound(decoder, prompts)()
    batches = bench.plan_batches([len(p.tokens) for p in unique], bench.TOKEN_BUDGET)
    last = bench.run_engine(decoder, unique)[-1]
    for batch, states in zip(batches, hidden, strict=True):
        assert torch.equal(last[batch.which], states.mean(1))


def test_each_distinct_prompt_is_run_once_and_every_row_finds_its_own(
    bench: ModuleType, prompts: list[Prompt]
) -> None:
    unique, of_row = bench.once_each(prompts)
    assert len({str(p.tokens) for p in prompts}) == len(unique) < len(prompts)
    assert [unique[i].tokens for i in of_row] == [p.tokens for p in prompts]


def test_a_comparison_reports_every_side_and_its_ratios(
    bench: ModuleType, model: PreTrainedModel, prompts: list[Prompt]
) -> None:
    case = bench.compare(model, prompts[:40], rounds=2)
    seconds = case["seconds"]
    assert set(seconds) == {"engine", "padded", "headless", "bound"}
    assert case["engine_over_padded"] == seconds["padded"] / seconds["engine"]
    assert case["share_of_bound"] == seconds["bound"] / seconds["engine"]
    assert case["largest_difference"] < 1e-5
    lengths = [len(p.tokens) for p in prompts[:40]]
    assert case["row_tokens"] == sum(lengths) > case["tokens"]
    assert case["padded_tokens"] == 32 * max(lengths[:32]) + 8 * max(lengths[32:])
    shown = "\n".join(bench.report_case("short", case))
    assert f"{case['engine_over_padded']:.2f} x" in shown


def test_long_prompts_need_no_padding(bench: ModuleType) -> None:
    prompts = bench.long_prompts(100)
    assert bench.padded_tokens(prompts) == sum(len(p.tokens) for p in prompts)


@pytest.mark.ray
def test_both_sides_of_the_ray_case_run_the_same_blocks(
    bench: ModuleType,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    table: pl.DataFrame,
    tmp_path: Path,
    local_ray: None,
) -> None:
    bench.save(model, tokenizer, tmp_path / "model")
    threads = torch.get_num_threads()
    case = bench.through_ray(tmp_path / "model", table, tmp_path, block_prompts=40)
    assert torch.get_num_threads() == threads
    assert case["blocks"] == -(-case["prompts"] // 40) > 2
    assert case["rows"] == 150 > case["timed_rows"] > 0
    seconds = case["seconds"]
    assert 0 < seconds["ray"] < seconds["ray_whole"]
    assert "rows/s" in "\n".join(bench.report_ray(case))
