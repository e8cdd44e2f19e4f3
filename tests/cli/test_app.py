"""The commands that end well, and the seam for those that do not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.core.config import load_job
from trimtab.models.registry import REGISTRY
from trimtab.scenarios.subset import SubsetConfig
from trimtab.stream import diagnose as driver
from trimtab.stream.config import DiagnoseConfig, MeasureConfig

DEMO = Path(__file__).parents[2] / "sweeps" / "diagnose-demo.yaml"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[DiagnoseConfig]:
    """Records what the driver is asked for, and stops there as Ctrl-C does."""
    configs: list[DiagnoseConfig] = []

    def record(config: DiagnoseConfig, report: driver.Report) -> driver.Outcome:
        configs.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "diagnose", record)
    return configs


def test_every_command_has_help(run: Callable) -> None:
    for command in (
        *("demo", "prepare", "extract", "diagnose", "models", "doctor"),
        *("plan", "twins", "quantize", "train", "locate", "align"),
        *("evaluate", "sweep", "compare"),
    ):
        assert command in run("--help").out
        assert len(run(command, "--help").out) > 400


def test_the_demo_is_the_file_of_sweeps(
    run: Callable, asked: list[DiagnoseConfig], tmp_path: Path
) -> None:
    run("demo", "--out", tmp_path)
    assert asked == [load_job(DEMO, DiagnoseConfig, [f"out={tmp_path}"])]


def test_the_demo_takes_a_model_with_the_corpus_settings_and_a_file_with_the_papers(
    run: Callable, asked: list[DiagnoseConfig], toy: Path, few_rows: Path
) -> None:
    run("demo", "--model", toy)
    run("demo", "--model", toy, "--data", few_rows)
    mine, paper = asked
    assert [model.id for model in mine.models] == [str(toy)]
    assert (mine.data.fractions, mine.measures.min_cluster_size) == ((0.5, 0.25), 25)
    assert (paper.data.path, paper.data.fractions) == (str(few_rows), (0.8, 0.1))
    assert (paper.data.subset, paper.measures) == (SubsetConfig(), MeasureConfig())


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(
    run: Callable, asked: list[DiagnoseConfig], tmp_path: Path
) -> None:
    code, out, err = run("demo", "--out", tmp_path)
    assert (code, out) == (130, "")
    assert "run the same command again to resume" in err
    assert "Traceback" not in err


def test_a_bug_keeps_its_traceback(
    run: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver, "diagnose", lambda *_: {}["a bug"])
    with pytest.raises(KeyError, match="a bug"):
        run("demo", "--out", tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("diagnose",),
        ("diagnose", "--modle", "x"),
        ("prepare", "--out", "x"),
        ("prepare", "--out", "x", "--data", "y", "--download"),
        ("nothing",),
    ],
)
def test_wrong_usage_ends_with_2(run: Callable, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage" in err


def test_models_are_the_registry(run: Callable) -> None:
    listed = json.loads(run("models", "--json").out)
    assert [model["id"] for model in listed] == list(REGISTRY)
    shape = listed[0]["shape"]
    assert {"group", "family", "precision", "gated", "revision"} <= set(listed[0])
    assert (shape["num_layers"], shape["d_model"], shape["tied"]) == (28, 1024, True)
    table = run("models").out
    assert all(model in table for model in REGISTRY)


def test_prepare_counts_every_row_and_reuses_a_finished_folder(
    run: Callable, few_rows: Path, tmp_path: Path
) -> None:
    arguments = ("prepare", "--data", few_rows, "--out", tmp_path)
    first, again = run(*arguments), run(*arguments, "--json")
    manifest = json.loads(again.out)
    assert manifest["reused"] is True
    assert manifest["rows_read"] == manifest["kept"] + sum(manifest["dropped"].values())
    for count in (manifest["rows_read"], manifest["kept"], manifest["expanded"]):
        assert f"{count:,}" in first.out
    assert "Written" in first.out


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_extract_then_diagnose_runs_the_model_once_and_the_measures_once(
    run: Callable, toy: Path, few_rows: Path, tmp_path: Path
) -> None:
    common = ("--model", f"mine={toy}", "--data", few_rows, "--out", tmp_path, "--threads", 1)
    small = ("--min-cluster-size", 5, "--min-samples", 2)
    extracted = json.loads(run("extract", *common, "--json").out)
    assert [(store["model"], store["layers"], store["reused"]) for store in extracted] == [
        ("mine", 4, False)
    ]
    first = json.loads(run("diagnose", *common, *small, "--json").out)
    (model,) = first["models"]
    assert (model["reused"], model["provenance"]["activations"]) == (
        False,
        Path(extracted[0]["store"]).name,
    )
    assert "extract/tokens_per_second" not in model["costs"]
    assert set(model["metrics"]["categorical/cosine/mean"]) == {"0", "1", "2", "3"}
    again = run("diagnose", *common, *small)
    assert "mine: finished before, reused" in again.err
    assert "reused" in again.out
    assert model["mlflow_run"] in again.out
    assert again.out.rstrip().endswith(f"mlflow ui --backend-store-uri {first['tracking_uri']}")
    assert all(Path(figure).is_file() for figure in first["figures"])
