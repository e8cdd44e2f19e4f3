"""Poles, rows, seeds, hashes and files."""

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import OutputError
from trimtab.core.files import finished_file, writable_folder, write_json
from trimtab.core.hashing import content_hash, file_hash
from trimtab.core.names import BY_LAYER, HIGHER_IS_PEAK, LOWER_IS_PEAK, NAMES
from trimtab.core.poles import FOUNDATIONS, POLES, TYPICALITIES, signed_magnitude, vice, virtue
from trimtab.core.rows import Labels
from trimtab.core.seeds import Seed


def test_the_poles_are_ten_in_the_order_of_the_paper() -> None:
    assert (
        *("care", "harm", "fairness", "cheating", "loyalty", "betrayal"),
        *("authority", "subversion", "sanctity", "degradation"),
    ) == POLES
    for i, foundation in enumerate(FOUNDATIONS):
        assert f"{POLES[virtue(i)]}-{POLES[vice(i)]}" == foundation


def test_magnitudes_take_only_the_published_levels() -> None:
    judgment, agree = (x.ravel() for x in np.meshgrid(np.arange(-2, 3), np.arange(5)))
    levels = np.unique(np.abs(signed_magnitude(judgment, agree)))
    assert levels.tolist() == [0.0, *TYPICALITIES]


def test_a_grave_wrong_that_all_agree_on_is_minus_one() -> None:
    assert signed_magnitude(np.array([-2]), np.array([4])).tolist() == [-1.0]


def test_every_peak_is_of_a_measure_by_layer_and_every_name_is_listed_once() -> None:
    assert set(HIGHER_IS_PEAK) | set(LOWER_IS_PEAK) <= BY_LAYER
    assert not set(HIGHER_IS_PEAK) & set(LOWER_IS_PEAK)
    assert BY_LAYER < NAMES


def some_labels(n: int) -> Labels:
    zeros = np.zeros(n)
    ints = np.arange(n)
    return Labels(ints, np.zeros((n, 10)), zeros, ints, ints, ints, ints)


def test_labels_are_taken_and_joined_in_order() -> None:
    rows = some_labels(5)
    back = Labels.concatenate([rows.take(np.array([3, 4])), rows.take(rows.index < 3)])
    assert back.index.tolist() == [3, 4, 0, 1, 2]
    assert len(back) == 5


@given(st.integers(0, 2**40), st.text(max_size=8), st.text(max_size=8))
def test_a_seed_by_another_name_is_another_seed(value: int, a: str, b: str) -> None:
    assert (Seed(value).child(a) == Seed(value).child(b)) == (a == b)


def test_a_seed_draws_the_same_numbers_every_time() -> None:
    seed = Seed(42).child("split")
    assert seed.numpy().random() == Seed(42).child("split").numpy().random()
    assert seed.python().random() == Seed(42).child("split").python().random()


def test_a_hash_ignores_key_order_and_sees_every_value() -> None:
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 1.5})
    with pytest.raises(TypeError):
        content_hash({"a": object()})


def test_a_file_hash_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"kept": True})

    def fail() -> None:
        with finished_file(tmp_path / "x.json") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert "kept" in (tmp_path / "x.json").read_text()


def test_a_full_disk_says_so_and_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"No space left.*run the same command again"),
        finished_file(tmp_path / "x"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Choose another folder"):
        writable_folder(tmp_path / "file" / "out")
