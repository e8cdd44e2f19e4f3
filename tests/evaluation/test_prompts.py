import json
from pathlib import Path

import pytest

from trimtab.core.errors import DataError
from trimtab.evaluation.prompts import Question, read_questions

GOOD = {"id": "a", "prompt": "May I?", "dimension": "care", "reference": "No.", "source": 3}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), "utf-8")
    return path


def test_a_file_is_read_in_order_with_what_else_it_says(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", GOOD, "", {"id": "b", "prompt": "你好？"})
    first, second = read_questions(path)
    assert first == Question("a", "May I?", "care", "No.", {"source": 3})
    assert second == Question("b", "你好？")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "b"}, "must have `prompt`, but line 2 of .* has only id"),
        ({"prompt": "x"}, "must have `id`, but line 2"),
        ({"id": "b", "prompt": " \n"}, "`prompt` must not be empty, but on line 2"),
        ({"id": "", "prompt": "x"}, "`id` must not be empty, but on line 2"),
        ({"id": 7, "prompt": "x"}, "`id` must be text, but on line 2 of .* it is a int"),
        ({"id": "a", "prompt": "x"}, "'a' occurs again on line 2"),
        (["b"], "line 2 of .* is a list"),
        ({"id": "b", "prompt": "x\ud83d"}, r"line 2 of .* has \\ud83d, one half"),
        ({"id": "b", "prompt": "x", "tags": [{"\ude00": 1}]}, r"line 2 of .* has \\ude00"),
        ("{id: b}", "one JSON object, but line 2 of .* is not"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_questions(write(tmp_path / "own.jsonl", GOOD, row))


def test_a_file_that_is_empty_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold a prompt"):
        read_questions(write(tmp_path / "empty.jsonl", " "))
    with pytest.raises(DataError, match="cannot be read: No such file or directory"):
        read_questions(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_questions(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_questions(tmp_path / "binary")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "May I?"}), "utf-8-sig")
    assert read_questions(path) == [Question("a", "May I?")]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    prompt = "one\u2028two\x85three"
    row = json.dumps({"id": "a", "prompt": prompt}, ensure_ascii=False)
    (tmp_path / "own.jsonl").write_bytes(f"{row}\r\n".encode())
    assert [question.prompt for question in read_questions(tmp_path / "own.jsonl")] == [prompt]
