"""The activation store: what goes in comes out, and what is not whole is refused by name."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import OutputError, StoreError
from trimtab.store.layout import checksum_path, hook_points, shard_path
from trimtab.store.reader import ActivationStore, open_store
from trimtab.store.writer import Writer

IDENTITY = {"model": "toy", "data": "abc", "layers": [0, 3]}
PROMPT_OF_ROW = np.array([0, 1, 1, 2, 0])


def activations(block: int, width: int = 8) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(block)
    return {k: torch.randn(3, width, generator=generator).bfloat16() for k in (0, 3)}


def write_block(writer: Writer, block: int, pooling: str = "mean") -> None:
    index = np.arange(5) + 5 * block
    ids = [f"{i}/care-harm" for i in index]
    writer.write(block, pooling, activations(block), PROMPT_OF_ROW, index, ids)


def finished(root: Path) -> Path:
    writer = Writer(root, IDENTITY, ["mean"])
    for block in (1, 0):
        write_block(writer, block)
    return writer.finish(2, {"revision": "1"})


def test_what_is_written_comes_back_bit_for_bit_with_each_row_at_its_prompt(tmp_path: Path) -> None:
    store = open_store(finished(tmp_path))
    store.verify()
    assert (store.layers, store.poolings, store.blocks) == ((0, 3), ("mean",), (0, 1))
    for block in store.blocks:
        rows = store.rows(3, "mean", block)
        assert rows.x.dtype == torch.bfloat16
        assert torch.equal(rows.x, activations(block)[3][PROMPT_OF_ROW])
        assert rows.row_index.tolist() == list(range(5 * block, 5 * block + 5))
        assert rows.scenario_ids == [f"{i}/care-harm" for i in rows.row_index]


def test_the_manifest_says_what_made_the_store_and_what_each_shard_holds(tmp_path: Path) -> None:
    manifest = open_store(finished(tmp_path)).manifest
    assert manifest.identity == IDENTITY
    assert manifest.provenance == {"revision": "1"}
    assert (manifest.d_model, manifest.dtype) == (8, "BF16")
    assert manifest.hook_points == (hook_points(0), hook_points(3))
    assert [(s.block, s.rows, s.prompts) for s in manifest.shards] == [(0, 5, 3), (1, 5, 3)]


def test_a_layer_carries_both_of_its_names() -> None:
    assert hook_points(5) == ("model.layers.5", "blocks.5.hook_resid_post")


@settings(max_examples=10, deadline=None)
@given(
    ids=st.lists(st.text(max_size=6), max_size=5),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_any_scenario_ids_and_any_dtype_survive(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], dtype: torch.dtype
) -> None:
    writer = Writer(tmp_path_factory.mktemp("store"), IDENTITY, ["last"])
    x = torch.full((1, 4), 1.0009765625, dtype=dtype)
    zeros = np.zeros(len(ids), int)
    writer.write(0, "last", {0: x}, zeros, zeros, ids)
    rows = open_store(writer.finish(1, {})).rows(0, "last", 0)
    assert rows.scenario_ids == ids
    assert torch.equal(rows.x, x.expand(len(ids), 4))
    assert rows.x.dtype == dtype


def test_the_same_activations_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (finished(tmp_path / name) for name in "ab")
    for name in ("manifest.json", "mean/block-00000.safetensors", "mean/block-00001.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_block_counts_only_when_it_is_there_in_every_pooling(tmp_path: Path) -> None:
    writer = Writer(tmp_path, IDENTITY, ["mean", "last"])
    write_block(writer, 0, "mean")
    assert not writer.has(0)
    write_block(writer, 0, "last")
    assert writer.has(0)
    assert not writer.has(1)


def test_writing_a_block_again_changes_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, IDENTITY, ["mean"])
    write_block(writer, 0)
    path = shard_path(writer.path, "mean", 0)
    before = path.stat().st_mtime_ns
    write_block(writer, 0)
    assert path.stat().st_mtime_ns == before


def test_a_missing_block_cannot_be_finished_and_is_named(tmp_path: Path) -> None:
    writer = Writer(tmp_path, IDENTITY, ["mean"])
    write_block(writer, 1)
    with pytest.raises(StoreError, match=r"mean/block-00000.*same command again"):
        writer.finish(2, {})
    assert not writer.finished
    with pytest.raises(StoreError, match=r"not finished.*Run the command that began it again"):
        open_store(writer.path)


def test_a_store_of_other_layers_in_one_block_cannot_be_finished(tmp_path: Path) -> None:
    writer = Writer(tmp_path, IDENTITY, ["mean"])
    write_block(writer, 0)
    writer.write(1, "mean", {0: torch.zeros(1, 8)}, np.zeros(1, int), np.zeros(1, int), ["a"])
    with pytest.raises(StoreError, match="same layers"):
        writer.finish(2, {})


@pytest.mark.parametrize("field", ["layer", "pooling", "block"])
def test_what_was_not_extracted_is_refused_with_what_is_there(tmp_path: Path, field: str) -> None:
    asked: dict[str, int | str] = {"layer": 0, "pooling": "mean", "block": 0}
    asked[field] = "last" if field == "pooling" else 2
    with pytest.raises(StoreError, match=rf"does not keep {field} .*; it keeps (0, 3|mean|0, 1)"):
        open_store(finished(tmp_path)).rows(**asked)  # pyright: ignore[reportArgumentType]


def test_a_flipped_byte_is_found_and_the_deleted_shard_is_rebuilt(tmp_path: Path) -> None:
    path = finished(tmp_path)
    shard = shard_path(path, "mean", 1)
    intact = shard.read_bytes()
    shard.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"wrong checksum: .*block-00001\S+\. Delete that shard"):
        open_store(path).verify()

    shard.unlink()
    writer = Writer(tmp_path, IDENTITY, ["mean"])
    assert not writer.finished
    write_block(writer, 1)
    writer.finish(2, {})
    assert shard.read_bytes() == intact
    open_store(path).verify()


def test_a_truncated_shard_is_refused_when_opening_and_when_reading(tmp_path: Path) -> None:
    path = finished(tmp_path)
    store: ActivationStore = open_store(path)
    shard = shard_path(path, "mean", 0)
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"block-00000\S+ must have \d+ bytes, but has \d+"):
        open_store(path)
    with pytest.raises(StoreError, match=r"block-00000\S+ cannot be read"):
        store.rows(0, "mean", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"format_version": 99}', "format version 1, but is of 99"), ("{", "is damaged")],
)
def test_a_manifest_that_cannot_be_understood_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = finished(tmp_path)
    (path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=message):
        open_store(path)


def test_a_manifest_with_a_field_too_many_is_damaged(tmp_path: Path) -> None:
    path = finished(tmp_path)
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "more": 1}))
    with pytest.raises(StoreError, match="is damaged"):
        open_store(path)


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no activation store"):
        open_store(tmp_path / "nothing")


def test_a_lost_checksum_is_found_before_the_store_is_called_finished(tmp_path: Path) -> None:
    writer = Writer(tmp_path, IDENTITY, ["mean"])
    write_block(writer, 0)
    checksum_path(shard_path(writer.path, "mean", 0)).unlink()
    with pytest.raises(StoreError, match=r"block-00000\S+ is damaged"):
        writer.finish(1, {})


def test_a_full_disk_leaves_no_shard_behind(tmp_path: Path) -> None:
    writer = Writer(tmp_path, IDENTITY, ["mean"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match="Free some disk space"):
            writer.write(
                0, "mean", {0: torch.zeros(1, 100_000)}, np.zeros(1, int), np.zeros(1, int), ["a"]
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not writer.has(0)
    assert not [path for path in writer.path.rglob("*") if path.is_file()]


def test_a_shard_is_as_readable_as_any_other_file(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    shard = shard_path(finished(tmp_path), "mean", 0)
    assert shard.stat().st_mode == ordinary.stat().st_mode
