"""`trimtab quantize`: one folder in, a smaller one out, or nothing at all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fourbit_toys import save_bf16, save_mxfp4

from trimtab.models.card import ModelConfig
from trimtab.models.loading import describe, load


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_bf16(tmp_path_factory.mktemp("models") / "toy-moe", "qwen3_moe")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return folder


def test_a_model_is_written_smaller_and_loads(run: Callable, moe: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "small"
    result = run("quantize", "--model", moe, "--out", out, "--json")
    assert result.code == 0
    said = json.loads(result.out)
    card, tokenizer = describe(ModelConfig(id=str(moe)))
    assert said["bytes_before"] == 2 * card.parameters
    assert said["bytes_after"] == said["held"]["total_bytes"] < said["bytes_before"]
    assert load(ModelConfig(id=str(out))).held.plain() == said["held"]
    small, again = describe(ModelConfig(id=str(out)))
    assert (small.precision, small.tokenizer_hash) == ("nf4", card.tokenizer_hash)
    assert again.chat_template == tokenizer.chat_template == "{{ messages[0].content }}"
    assert [path.name for path in out.parent.iterdir()] == ["small"]


def test_bytes_before_and_after_are_printed(run: Callable, moe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, _ = run("quantize", "--model", moe, "--out", tmp_path / "empty")
    assert code == 0
    assert "GB before" in out
    assert "GB after" in out
    assert "nf4" in out
    assert "Written" in out


def test_a_folder_that_holds_something_is_left_alone(
    run: Callable, moe: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = run("quantize", "--model", moe, "--out", tmp_path)
    assert code == 2
    assert "must not exist or be an empty folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_four_bits_are_not_quantised_again(run: Callable, tmp_path: Path) -> None:
    save_mxfp4(tmp_path / "gpt-oss")
    code, _, err = run("quantize", "--model", tmp_path / "gpt-oss", "--out", tmp_path / "out")
    assert code == 2
    assert "quantised already (mxfp4)" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_error(
    run: Callable, moe: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("quantize", "--model", moe, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert "cannot be written" in err
    assert "Traceback" not in err
