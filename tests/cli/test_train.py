"""`trimtab train` as a user meets it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.sae.about import About
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.folder import load_sae, save_sae
from trimtab.stream import train as driver
from trimtab.stream.train_config import TrainJob

SMALL = ("--width", 40, "--k", 4, "--epochs", 3, "--batch-size", 16)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TrainJob]:
    """Records what the driver is asked for, and stops there as Ctrl-C does."""
    jobs: list[TrainJob] = []

    def record(job: TrainJob, report: object) -> None:
        jobs.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "train", record)
    return jobs


def test_help_names_every_option(run: Callable) -> None:
    shown = run("train", "--help").out
    for option in ("--from", "--export", "--preset", "--layers", "--width", "--target-l0"):
        assert option in shown


def test_the_preset_is_the_papers_recipe_and_options_come_on_top(
    run: Callable, asked: list[TrainJob], toy: Path
) -> None:
    run("train", "-m", toy, "--preset", "li2026")
    run("train", "-m", toy, "--preset", "li2026", "--width", 512, "--epochs", 7, "--target-l0", 9)
    whole, small = asked
    assert whole.train == TrainConfig.li2026()
    assert whole.data.subset is None, "every row, not the diagnosis subset"
    wanted = TrainConfig.li2026(512, 9.0).model_dump() | {"epochs": 7.0}
    assert small.train == TrainConfig.model_validate(wanted)


def test_what_is_said_is_what_is_asked_for(
    run: Callable, asked: list[TrainJob], toy: Path, tmp_path: Path
) -> None:
    run(
        *("train", "-m", f"mine={toy}", "--layers", "1,3", "--extract-layers", "all"),
        *("--kind", "jumprelu", "--width", 64, "--target-l0", 8, "--penalty", 0.5),
        *("--lr", 0.01, "--batch-size", 32, "--epochs", 2.5, "--seed", 7, "--device", "cpu"),
        *("--fractions", "0.5,0.25", "--texts", 9, "--out", tmp_path),
    )
    (job,) = asked
    assert (job.model.label, job.layers, job.extract.layers) == ("mine", (1, 3), "all")
    assert job.train.coder == CoderConfig(kind="jumprelu", width=64)
    assert (job.train.target_l0, job.train.penalty, job.train.learning_rate) == (8, 0.5, 0.01)
    assert (job.train.batch_size, job.train.epochs, job.seed, job.device) == (32, 2.5, 7, "cpu")
    assert (job.data.fractions, job.evaluate.texts, job.out) == ((0.5, 0.25), 9, tmp_path)


def test_only_the_layers_that_are_trained_are_extracted_by_default(
    run: Callable, asked: list[TrainJob], toy: Path
) -> None:
    run("train", "-m", toy, "--layers", "2", "--width", 8, "--k", 2)
    run("train", "-m", toy, "--width", 8, "--k", 2)
    assert [(job.layers, job.extract.layers) for job in asked] == [((2,), (2,)), ("all", "all")]


def test_kind_and_size_come_from_the_folder_to_go_on_from(
    run: Callable, asked: list[TrainJob], toy: Path, tmp_path: Path
) -> None:
    coder = CoderConfig(kind="topk", width=24, k=3)
    save_sae(tmp_path / "run" / "layers.1", Sae(coder, 32), About(layer=1))
    for start in (tmp_path / "run", tmp_path / "run" / "layers.1"):
        run("train", "-m", toy, "--layers", "1", "--from", start)
    assert [(job.train.coder, job.start) for job in asked] == [
        (coder, tmp_path / "run"),
        (coder, tmp_path / "run" / "layers.1"),
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "`--width` must be given"),
        (("--width", 0), "`train.coder.width`"),
        (("--width", 8, "--k", 9), "k=9, width=8"),
        (("--width", 8, "--k", 2, "--layers", "9"), "layer=9, num_layers=4"),
        (("--width", 8, "--k", 2, "--layers", "x"), "layers"),
        (("--width", 8, "--k", 2, "--layers", "3", "--extract-layers", "1"), "extract.layers"),
        (("--width", 8, "--k", 2, "--target-l0", 4), "`target_l0` is for relu and jumprelu"),
        (("--kind", "relu", "--width", 8, "--export", "sparsify"), "topk coders only"),
        (("--width", 8, "--k", 2, "--fractions", "0.9"), "`data.fractions"),
        (("--width", 8, "--k", 2, "--fractions", "0.9,0.2"), "`training + validation <= 1`"),
        (("--from", "nowhere"), "An autoencoder is a folder, but nowhere is none"),
    ],
)
def test_what_cannot_be_is_one_message_and_exit_code_2(
    options: tuple[object, ...], says: str, run: Callable, toy: Path, few_rows: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        "train", "-m", toy, "--data", few_rows, "--out", tmp_path / "out", *options
    )
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not list((tmp_path / "out").glob("saes/*"))


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_training_ends_with_its_table_and_folders_and_again_with_json(
    run: Callable, toy: Path, few_rows: Path, tmp_path: Path
) -> None:
    command = ("train", "-m", toy, "--data", few_rows, "--fractions", "0.5,0.25", *SMALL)
    command = (
        *command,
        "--layers",
        "1,3",
        "--texts",
        12,
        "--out",
        tmp_path,
        "--export",
        "sparsify",
    )
    code, out, err = run(*command)
    assert code == 0, err
    assert "Training topk, width 40, k 4, layers: 1, 3" in err
    assert "toy-llama: train" in err
    lines = {line.split()[0]: line for line in out.splitlines() if line[1:3] in ("L1", "L3")}
    assert set(lines) == {"L1", "L3"}
    assert "layers.1, layers.3" in out
    assert "learning.png, quality.png" in out
    assert "trimtab/sae" in out
    code, out, err = run(*command, "--json")
    assert (code, json.loads(out)["reused"]) == (0, True), err
    found = json.loads(out)
    assert [one["layer"] for one in found["layers"]] == [1, 3]
    for one in found["layers"]:
        assert load_sae(Path(one["folder"])).sae.width == 40
        assert load_sae(Path(one["sparsify"])).sae.width == 40
        assert f"{one['metrics']['sae/l0']:.1f}" in lines[f"L{one['layer']}"]
