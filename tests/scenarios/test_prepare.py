import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.config import build
from trimtab.core.errors import ConfigError, DataError, OutputError
from trimtab.core.hashing import file_hash
from trimtab.scenarios.manifest import read_manifest
from trimtab.scenarios.prepare import PrepareConfig, load, prepare
from trimtab.scenarios.vectors import SCHEMA


@pytest.fixture
def config(write_table: Callable[..., Path]) -> PrepareConfig:
    rows = [{"action": f"doing thing {n % 30}", "m": "1" if n % 10 else "3"} for n in range(100)]
    return PrepareConfig(data=write_table(*rows))


def test_the_manifest_counts_everything(dev_file: Path, tmp_path: Path) -> None:
    manifest = prepare(PrepareConfig(data=dev_file), tmp_path).manifest
    assert (manifest.rows_read, manifest.kept, manifest.expanded) == (17_646, 16_011, 20_638)
    assert sum(manifest.dropped.values()) == 17_646 - 16_011
    assert manifest.counts["care-harm"] == {"virtue": 5536, "vice": 2826, "neutral": 1352}
    assert manifest.kept_by_split == {"train": 12_808, "validation": 1_601, "test": 1_602}
    for foundation, counts in manifest.counts.items():
        for name, rows in counts.items():
            by_split = [split[foundation][name] for split in manifest.counts_by_split.values()]
            assert sum(by_split) == rows
    assert manifest.data_sha256 == file_hash(dev_file)
    frame = load(tmp_path)
    texts = {s: set(frame.filter(split=s)["action"]) for s in manifest.kept_by_split}
    for side in ("validation", "test"):
        actions = frame.filter(split=side).unique("action_id")["action"]
        assert manifest.leak[side] == sum(action in texts["train"] for action in actions) > 0


def test_the_split_by_action_leaks_nothing(dev_file: Path, tmp_path: Path) -> None:
    manifest = prepare(PrepareConfig(data=dev_file, split="action"), tmp_path).manifest
    assert manifest.leak == {"validation": 0, "test": 0}
    assert manifest.kept_by_split["train"] == pytest.approx(12_808, abs=200)


def test_what_is_loaded_is_what_was_prepared(config: PrepareConfig, tmp_path: Path) -> None:
    prepared = prepare(config, tmp_path / "deep" / "out")
    frame = load(prepared.folder)
    assert frame.schema == SCHEMA
    assert frame.height == prepared.manifest.expanded == 90
    assert read_manifest(prepared.folder) == prepared.manifest
    assert {file.name for file in prepared.folder.iterdir()} == {
        "manifest.json",
        "scenarios.parquet",
    }


def test_a_second_run_finds_it_finished_and_touches_nothing(
    config: PrepareConfig, tmp_path: Path
) -> None:
    first = prepare(config, tmp_path / "out")
    times = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    second = prepare(config, tmp_path / "out")
    assert (first.reused, second.reused) == (False, True)
    assert second.manifest == first.manifest
    assert {file: file.stat().st_mtime_ns for file in second.folder.iterdir()} == times


def test_two_folders_of_the_same_data_are_the_same_bytes(
    config: PrepareConfig, tmp_path: Path
) -> None:
    moved = config.data.rename(config.data.with_name("moved.tsv"))
    one = prepare(PrepareConfig(data=moved), tmp_path / "one").manifest
    two = prepare(PrepareConfig(data=moved), tmp_path / "two").manifest
    assert one == two


@pytest.mark.parametrize(
    "change", [{"seed": 7}, {"split": "action"}, {"fractions": (0.5, 0.25)}, {"source": "corpus"}]
)
def test_another_choice_makes_the_folder_anew(
    config: PrepareConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    first = prepare(config, tmp_path / "out")
    second = prepare(PrepareConfig.model_validate({**config.model_dump(), **change}), first.folder)
    assert not second.reused
    assert second.manifest.identity != first.manifest.identity
    assert load(first.folder).height == 90


def test_other_data_makes_the_folder_anew(config: PrepareConfig, tmp_path: Path) -> None:
    first = prepare(config, tmp_path / "out")
    lines = config.data.read_bytes().splitlines(keepends=True)
    config.data.write_bytes(b"".join(lines[:50]))
    assert not prepare(config, first.folder).reused
    assert load(first.folder).height < 90


def test_an_unfinished_folder_is_refused_by_load_and_finished_by_prepare(
    config: PrepareConfig, tmp_path: Path
) -> None:
    folder = prepare(config, tmp_path / "out").folder
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json cannot be read.*trimtab prepare"):
        load(folder)
    assert not prepare(config, folder).reused
    assert load(folder).height == 90


def test_a_run_killed_before_its_manifest_leaves_a_folder_without_one(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare(config, tmp_path / "out").folder

    def killed(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trimtab.scenarios.prepare.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(PrepareConfig(data=config.data, seed=7), folder)
    assert [file.name for file in folder.iterdir()] == ["scenarios.parquet"]


def test_a_table_changed_after_the_fact_is_refused_by_load_and_mended_by_prepare(
    config: PrepareConfig, tmp_path: Path
) -> None:
    folder = prepare(config, tmp_path / "out").folder
    table = folder / "scenarios.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(DataError, match="is not the file its manifest describes"):
        load(folder)
    assert not prepare(config, folder).reused
    assert load(folder).height == 90


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": "activations"}'])
def test_a_manifest_of_another_kind_is_refused(
    config: PrepareConfig, tmp_path: Path, text: str
) -> None:
    folder = prepare(config, tmp_path / "out").folder
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="is not the manifest of prepared scenarios"):
        load(folder)


def test_a_folder_of_something_else_is_left_alone(config: PrepareConfig, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "activations"}))
    with pytest.raises(OutputError, match="Choose another folder"):
        prepare(config, tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"kind": "activations"}


def test_bad_data_leaves_nothing_behind(write_table: Callable[..., Path], tmp_path: Path) -> None:
    config = PrepareConfig(data=write_table({}, {"action-moral-judgment": "7"}))
    with pytest.raises(DataError, match="must be one of -2, -1, 0, 1, 2"):
        prepare(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_data_and_an_unwritable_output_are_errors(
    config: PrepareConfig, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"absent\.tsv cannot be read"):
        prepare(PrepareConfig(data=tmp_path / "absent.tsv"), tmp_path / "out")
    with pytest.raises(OutputError, match="must be writable"):
        prepare(config, config.data / "out")


@pytest.mark.parametrize(
    "wrong",
    [{"fractions": [0.8, 0.3]}, {"fractions": [-0.1, 0.3]}, {"split": "text"}, {"seed": 2**32}],
)
def test_a_choice_that_cannot_be_made_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(PrepareConfig, {"data": Path("x.tsv"), **wrong}, where="test")
