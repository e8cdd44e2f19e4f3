"""Made-up, harmless prompts in the released form; no prompt of the benchmark is here."""

import json
from pathlib import Path

import pytest

from trimtab.core.errors import DataError
from trimtab.core.names import DIMENSIONS
from trimtab.evaluation.flames import download, flames, read_flames

NAMES = ("Fairness", "Safety", "Morality", "Legality", "Data protection")


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def rows(n: int) -> list[dict[str, str]]:
    return [{"dimension": NAMES[i % 5], "prompt": f"第 {i} 种茶怎么泡？"} for i in range(n)]


def test_prompts_are_named_by_their_place_and_keep_their_order(tmp_path: Path) -> None:
    questions = read_flames(write(tmp_path / "f.jsonl", rows(7)))
    assert [q.id for q in questions] == [f"flames/{n:04d}" for n in range(1, 8)]
    assert [q.dimension for q in questions] == [*DIMENSIONS, *DIMENSIONS[:2]]
    assert questions[3].prompt == "第 3 种茶怎么泡？"


def test_own_ids_and_other_spellings_of_the_dimension_are_taken(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.jsonl", [{"id": 9, "prompt": "茶？", "dimension": "data_protection "}]
    )
    (question,) = read_flames(path)
    assert question.id == "9"
    assert question.dimension == "data_protection"


def test_blank_lines_a_byte_order_mark_and_odd_line_separators_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    row = '{"prompt": "茶\u2028或者咖啡？", "dimension": "Safety"}'
    path.write_text(f"\ufeff\n{row}\r\n\n{row}\n", "utf-8")
    questions = read_flames(path)
    assert [q.id for q in questions] == ["flames/0001", "flames/0002"]
    assert questions[0].prompt == "茶\u2028或者咖啡？"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"dimension": "Safety"}', r"line 2 of .* no `prompt` \(fields: dimension\)"),
        ('{"prompt": "secret words"}', "no `dimension`"),
        ('{"prompt": "  ", "dimension": "Safety"}', "no `prompt`"),
        ('{"prompt": "secret words", "dimension": "Taste"}', "one of fairness, safety"),
        ('{"prompt": 3, "dimension": "Safety"}', "no `prompt`"),
        (
            '{"prompt": "secret words',
            "line 2 .*one JSON object a line|one JSON object a line.* line 2",
        ),
        (r'{"prompt": "secret words \ud83d"}', r"line 2 of .* has \\ud83d, one half"),
        ('["secret words"]', "one JSON object a line"),
    ],
)
def test_a_line_that_is_wrong_is_named_without_its_text(
    line: str, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "f.jsonl", rows(1))
    path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises(DataError, match=message) as error:
        read_flames(path)
    assert "secret words" not in str(error.value)


def test_repeated_ids_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    twice = [{"id": "a", "prompt": "茶？", "dimension": "Safety"}] * 2
    with pytest.raises(DataError, match=r"line 2 .*occurs before"):
        read_flames(write(tmp_path / "f.jsonl", twice))
    with pytest.raises(DataError, match="is empty"):
        read_flames(write(tmp_path / "g.jsonl", []))
    with pytest.raises(DataError, match="cannot be read"):
        read_flames(tmp_path / "nowhere.jsonl")
    (tmp_path / "h.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_flames(tmp_path / "h.jsonl")


def test_the_released_file_is_fetched_once_checked_and_noted(tmp_path: Path) -> None:
    source = write(tmp_path / "released.jsonl", rows(1000))
    out = tmp_path / "data"
    path = download(out, source.as_uri())
    origin = json.loads((out / "released.jsonl.origin.json").read_text())
    assert len(origin["file_sha256"]) == 64
    assert "licence" in origin["licence"]
    source.unlink()
    assert download(out, source.as_uri()) == path
    assert len(flames(path, out)) == 1000


@pytest.mark.parametrize("wrong", [rows(999), [rows(1)[0]] * 1000])
def test_what_is_not_the_released_file_is_not_kept(wrong: list, tmp_path: Path) -> None:
    source = write(tmp_path / "released.jsonl", wrong)
    with pytest.raises(DataError, match="1000 prompts of 5 dimensions"):
        download(tmp_path / "data", source.as_uri())
    assert list((tmp_path / "data").iterdir()) == []


def test_without_a_network_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fetch it on another machine, put it at"):
        download(tmp_path, (tmp_path / "nowhere.jsonl").as_uri())


def test_a_file_of_ones_own_is_read_as_it_is(tmp_path: Path) -> None:
    part = write(tmp_path / "part.jsonl", rows(3))
    assert len(flames(part, tmp_path / "unused")) == 3
    assert not (tmp_path / "unused").exists()
