"""`trimtab twins` as a user meets it."""

import json
from collections.abc import Callable
from pathlib import Path

MODELS = ("--models", "Qwen/Qwen3-0.6B", "-m", "openai/gpt-oss-20b")


def test_the_table_and_the_document_name_what_was_made(run: Callable, tmp_path: Path) -> None:
    first = run("twins", "--out", tmp_path, *MODELS)
    assert first.code == 0
    for word in ("Qwen3-0.6B", "GptOssForCausalLM", "mxfp4", "2 twins (2 new)", "no finding"):
        assert word in first.out
    assert "trimtab diagnose --model" in first.out
    assert "sweeps/diagnose-23-twins.yaml" in first.out
    listed = json.loads(run("twins", "--out", tmp_path, *MODELS, "--json").out)
    assert [twin["of"] for twin in listed] == ["Qwen/Qwen3-0.6B", "openai/gpt-oss-20b"]
    assert all(twin["reused"] and Path(twin["folder"]).is_dir() for twin in listed)


def test_an_unknown_model_is_one_line_and_2(run: Callable, tmp_path: Path) -> None:
    code, out, err = run("twins", "--out", tmp_path, "-m", "Qwen/Qwen3-9B")
    assert (code, out) == (2, "")
    assert "'Qwen/Qwen3-9B'" in err
    assert "Traceback" not in err
