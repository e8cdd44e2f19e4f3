"""What a user can mend: exit code 2, one message, nothing left behind as if it were finished."""

import runpy
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toys import make_tokenizer, make_toy

from trimtab.scenarios.socialchem import ACTION, COLUMNS, JUDGMENT

JOB = Path(__file__).parents[2] / "jobs" / "diagnose.py"


def refused(result: tuple[int, str, str], out: Path, *says: str) -> None:
    code, stdout, stderr = result
    assert code == 2, stderr
    assert stdout == ""
    assert "error: " in stderr
    assert "Traceback" not in stderr
    for words in says:
        assert words in stderr
    left = [path for path in out.rglob("*") if "scenarios" not in path.parts]
    assert not [path for path in left if path.name in ("result.json", "manifest.json")]
    assert not list(out.rglob("*.part"))


def field(data: bytes, column: str, value: str) -> bytes:
    """The same table with one field of its second row replaced."""
    lines = data.decode().split("\n")
    fields = lines[2].split("\t")
    fields[lines[0].split("\t").index(column)] = value
    lines[2] = "\t".join(fields)
    return "\n".join(lines).encode()


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "a missing column": (
        lambda data: data.replace(b"action-agree", b"agreement", 1),
        ("`action-agree`", "bad.tsv"),
    ),
    "a judgment of 7": (
        lambda data: field(data, JUDGMENT, "7"),
        (JUDGMENT, "'7'", "line 3", "-2, -1, 0, 1, 2"),
    ),
    "an empty file": (lambda _: b"", ("bad.tsv is empty", "header")),
    "not UTF-8": (
        lambda data: field(data, ACTION, "caf@").replace(b"caf@", b"caf\xe9"),
        ("UTF-8", "line 3", "iconv"),
    ),
    "a truncated last line": (
        lambda data: data.rstrip(b"\n")[:-40].rpartition(b"\t")[0],
        (f"must have {len(COLUMNS)} fields", "cut off"),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_data_file_is_refused(
    name: str, run: Callable, few_rows: Path, toy: Path, tmp_path: Path
) -> None:
    damage, says = DAMAGE[name]
    bad, out = tmp_path / "bad.tsv", tmp_path / "out"
    bad.write_bytes(damage(few_rows.read_bytes()))
    refused(run("diagnose", "--model", toy, "--data", bad, "--out", out), out, *says)
    refused(run("prepare", "--data", bad, "--out", out), out, *says)
    assert not list(out.rglob("manifest.json"))


def test_a_prompt_over_the_length_limit_is_refused_by_its_scenario(
    run: Callable, few_rows: Path, toy: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.tsv"
    long.write_bytes(field(few_rows.read_bytes(), ACTION, "giving to the " * 60))
    result = run("diagnose", "--model", toy, "--data", long, "--out", tmp_path / "out")
    refused(result, tmp_path / "out", "1 to 128 tokens", "scenario 1/", "max_tokens")


def test_a_folder_without_a_model_is_refused(run: Callable, few_rows: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = run("extract", "--model", empty, "--data", few_rows, "--out", tmp_path / "out")
    refused(result, tmp_path / "out", "config.json", str(empty), "save_pretrained")


def test_a_model_without_a_tokenizer_is_refused(
    run: Callable, few_rows: Path, tmp_path: Path
) -> None:
    make_toy("llama").save_pretrained(tmp_path / "mute")
    result = run(
        "diagnose", "--model", tmp_path / "mute", "--data", few_rows, "--out", tmp_path / "out"
    )
    refused(result, tmp_path / "out", "must hold its tokenizer", "mute", "Copy the tokenizer")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_nan_activation_is_named_by_layer_and_scenario(
    run: Callable, few_rows: Path, tmp_path: Path
) -> None:
    model = make_toy("llama")
    model.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "sick")
    make_tokenizer().save_pretrained(tmp_path / "sick")
    out = tmp_path / "out"
    result = run("diagnose", "--model", tmp_path / "sick", "--data", few_rows, "--out", out)
    refused(result, out, "Layer 2 gave a NaN", "first at scenario", "Check the model's weights")


def test_an_unwritable_output_is_refused(run: Callable, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    refused(run("demo", "--model", toy, "--out", out), out, "must be writable", str(out), "Choose")


def test_a_dead_mlflow_server_is_refused(
    run: Callable, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    result = run("demo", "--model", toy, "--out", tmp_path / "out")
    refused(result, tmp_path / "out", uri, "Start the server")


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("job: diagnose\nasks: why\nmodel: []\n", (), ("`model`", "did you mean `models`?")),
        ("job: sweep\nmodels: []\n", (), ("job: diagnose", "job: sweep", "jobs/sweep.py")),
        ("job: diagnose\nasks: why\n", ("stroe=true",), ("`stroe`", "did you mean `store`?")),
        ("- job\n", (), ("key: value", "list")),
    ],
    ids=["unknown key", "a sweep", "unknown override", "not a mapping"],
)
def test_a_file_that_the_job_cannot_read_is_refused_by_the_job(
    run: Callable, tmp_path: Path, text: str, overrides: tuple[str, ...], says: tuple[str, ...]
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    result = run(file, *overrides, entry=lambda: runpy.run_path(str(JOB), run_name="__main__"))
    refused(result, tmp_path, "file.yaml", *says)


def test_an_option_that_no_record_allows_is_refused(
    run: Callable, toy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refused(run("diagnose", "--model", toy, "--layers", "0,9", "--out", out), out, "num_layers=4")
    refused(run("diagnose", "--model", toy, "--layers", "x", "--out", out), out, "extract.layers")
    twice = run("diagnose", "--model", toy, "--model", toy, "--out", out)
    refused(twice, out, "occur twice", "toy-llama")
