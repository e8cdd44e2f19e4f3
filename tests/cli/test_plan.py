"""`trimtab plan` as a user meets it; no network, no weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.cli.console import OUT
from trimtab.models.registry import REGISTRY

WANTED = {
    "model",
    "parameters",
    "parameters_fused_experts",
    "bytes",
    "source",
    "precision",
    "why",
    "gpus_per_replica",
    "replicas",
    "tokens",
    "tokens_from",
    "hidden_state_bytes",
    "activation_bytes",
    "store_bytes",
    "seconds",
    "seconds_compute",
    "seconds_read",
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))


def test_the_23_are_planned_offline(run: Callable) -> None:
    code, out, _ = run("plan", "--models", "all", "--json")
    found = json.loads(out)
    assert code == 0
    assert [one["model"] for one in found] == list(REGISTRY)
    for one in found:
        known = REGISTRY[one["model"]]
        assert set(one) >= WANTED
        assert abs(one["parameters"] / (known.billions * 1e9) - 1) < 1e-3
        assert {"bf16", "nf4", "mxfp4", "int8"} <= set(one["bytes"])
        assert one["error"] is None
        assert (one["tokens"], one["tokens_from"]) == (16_315 * 12, "12 a prompt")
        assert one["seconds"] >= max(one["seconds_compute"], one["seconds_read"])


def test_the_table_fits_100_columns_and_ends_in_totals(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OUT, "_width", 100)
    lines = run("plan", "--precision", "nf4").out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    assert not any("…" in line for line in lines)
    weighs, big = [line for line in lines if line.startswith("Qwen3-235B-A22B ")]
    assert weighs.split()[1:9] == ["6.70", "227.1", "1.24", "0.05", "470", "123", "137", "236"]
    assert big.split()[:6] == ["Qwen3-235B-A22B", "235.1", "nf4", "123", "resident", "2"]
    _, oss = [line for line in lines if line.startswith("gpt-oss-120b ")]
    assert oss.split()[:6] == ["gpt-oss-120b", "116.8", "mxfp4", "65.2", "resident", "1"]
    assert any(line.startswith("23 models") for line in lines)
    assert "not exact" in " ".join(lines)


def test_models_may_follow_one_another(run: Callable) -> None:
    arguments = ("plan", "--models", "Qwen/Qwen3-8B", "openai/gpt-oss-20b", "Qwen/Qwen3-8B")
    found = json.loads(run(*arguments, "--gpu", "a100-40gb:2", "--json").out)
    assert [one["model"] for one in found] == ["Qwen/Qwen3-8B", "openai/gpt-oss-20b"]
    assert {one["machine"] for one in found} == {"2 x a100-40gb"}


def test_a_folder_counts_tokens_with_its_own_tokenizer(
    run: Callable, toy: Path, few_rows: Path
) -> None:
    arguments = ("--data", few_rows, "--all-rows", "--gpu", "cpu", "--json")
    own, guessed = json.loads(run("plan", toy, "Qwen/Qwen3-0.6B", *arguments).out)
    assert own["tokens_from"] == "its tokenizer"
    assert guessed["tokens_from"] == "1.4 a word"
    assert own["prompts"] == guessed["prompts"] <= own["rows"] == guessed["rows"]
    # The toy's tokenizer takes a word, or a mark, for a token.
    assert 0.7 < own["tokens"] / guessed["tokens"] < 1
    assert own["store_bytes"] == own["prompts"] * 4 * 32 * 2
    assert (own["published"], own["source"], own["gpus_per_replica"]) == ("float32", "resident", 0)


def test_a_model_that_fits_in_no_way_is_shown_and_ends_with_2(run: Callable) -> None:
    arguments = ("plan", "Qwen/Qwen3-8B", "Qwen/Qwen3-235B-A22B", "--precision", "nf4")
    code, out, err = run(*arguments, "--gpu", "rtx-4090-24gb")
    assert code == 2
    assert "none fits" in out
    assert "take 9 rtx-4090-24gb" in " ".join(err.split())
    fits, not_ = json.loads(run(*arguments, "--gpu", "rtx-4090-24gb", "--json").out)
    assert fits["error"] is None
    assert not_["source"] is None
    assert "Qwen3-235B-A22B must fit" in not_["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trimtab-tests/no-such-model",), "cannot be loaded"),
        (("./nowhere",), "no model folder"),
        (("--gpu", "h100"), "h100-80gb, h200-141gb"),
        (("--data", "nowhere.tsv"), "nowhere.tsv"),
        (("--cluster",), "RAY_ADDRESS"),
        (("--models", "all", "./nowhere"), "no model folder"),
        (("--cluster", "--gpu", "cpu"), "either --gpu KIND or --cluster"),
    ],
)
def test_what_cannot_be_planned_is_one_error(
    run: Callable, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, out, err = run("plan", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_planning_reads_no_weight_and_starts_no_ray(run: Callable, tmp_path: Path) -> None:
    from trimtab.models.shapes import config

    config(REGISTRY["Qwen/Qwen3-0.6B"].shape).save_pretrained(tmp_path)  # nothing else in it
    (one,) = json.loads(run("plan", tmp_path, "--data", "corpus", "--json").out)
    assert (one["source"], one["tokens_from"]) == ("resident", "1.4 a word")


def test_a_cluster_that_does_not_answer_is_one_error(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, out, err = run("plan", "--cluster")
    assert (code, out) == (2, "")
    assert "127.0.0.1:1 does not answer" in " ".join(err.split())


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_cluster_is_asked_for_its_cards(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    (one,) = json.loads(run("plan", "Qwen/Qwen3-0.6B", "--cluster", "--json").out)
    assert (one["machine"], one["gpus_per_replica"]) == ("CPU, 2 cores", 0)
    monkeypatch.setenv("TRIMTAB_GPU", "h100-80gb:16")
    (one,) = json.loads(run("plan", "Qwen/Qwen3-0.6B", "--cluster", "--json").out)
    assert (one["machine"], one["gpus_per_replica"]) == ("16 x h100-80gb", 0.125)
