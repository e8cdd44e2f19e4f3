import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.core.errors import DataError
from trimtab.scenarios.socialchem import COLUMNS, DROP_REASONS, read

NEEDED = ("action", "rot-moral-foundations", "action-moral-judgment", "action-agree")


def test_the_development_file_agrees_with_a_plain_reading_of_it(dev_file: Path) -> None:
    with dev_file.open(encoding="utf-8", newline="") as file:
        plain = list(csv.DictReader(file, delimiter="\t"))
    kept = [
        (row["action"].strip(), int(float(row["action-moral-judgment"])), row["action-agree"][0])
        for row in plain
        if row["rot-bad"] == "0" and row["m"] == "1" and all(row[name] for name in NEEDED)
    ]
    table = read(dev_file)
    ours = table.rows.select("action", "judgment", "agree").rows()
    assert len(kept) == 16_011
    assert [(action, judgment, str(agree)) for action, judgment, agree in ours] == kept
    assert table.num_read == len(plain) == table.rows.height + sum(table.dropped.values())


def test_numbers_may_be_written_with_or_without_a_point(write_table: Callable[..., Path]) -> None:
    whole = {"m": "1", "rot-bad": "0", "action-moral-judgment": "-2", "action-agree": "3"}
    pointed = {name: f"{value}.0" for name, value in whole.items()}
    rows = read(write_table(whole, pointed)).rows
    assert rows.row(0) == rows.row(1)
    assert rows.select("judgment", "agree").row(0) == (-2, 3)


def test_a_row_is_counted_under_its_first_reason_only(write_table: Callable[..., Path]) -> None:
    bad = {"rot-bad": "1", "m": "3", **dict.fromkeys(NEEDED, "")}
    rows = [bad, {**bad, "rot-bad": "0"}, {**bad, "rot-bad": "0", "m": "1"}]
    rows += [{name: ""} for name in NEEDED[1:]] + [
        {"action": "  "},
        {"rot-bad": ""},
        {"m": "5"},
        {},
    ]
    table = read(write_table(*rows))
    assert tuple(table.dropped) == DROP_REASONS
    assert list(table.dropped.values()) == [2, 2, 2, 1, 1, 1]
    assert (table.num_read, table.rows.height) == (10, 1)


def test_an_action_keeps_its_text_but_for_white_space_around_it(
    write_table: Callable[..., Path],
) -> None:
    actions = [' saying "no", firmly. ', 'a "quoted" word', "two\nlines", "fiancée's\ttab", "NA"]
    rows = read(write_table(*({"action": action} for action in actions))).rows
    assert rows["action"].to_list() == [action.strip() for action in actions]


def test_a_foundation_named_twice_counts_once_and_order_does_not_matter(
    write_table: Callable[..., Path],
) -> None:
    spellings = ["loyalty-betrayal|care-harm|loyalty-betrayal", "care-harm|loyalty-betrayal"]
    rows = read(write_table(*({"rot-moral-foundations": s} for s in spellings))).rows
    assert rows["foundations"].to_list() == [[0, 2], [0, 2]]


def test_columns_in_another_order_a_byte_order_mark_and_windows_line_ends_are_read(
    write_table: Callable[..., Path],
) -> None:
    expected = read(write_table({}, {"action": "waving"})).rows
    path = write_table({}, {"action": "waving"}, columns=(*reversed(COLUMNS), "extra"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(path).rows.equals(expected)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("action-moral-judgment", "7"),
        ("action-moral-judgment", "0.5"),
        ("action-moral-judgment", "nan"),
        ("action-agree", "-1"),
        ("action-agree", "5.0"),
        ("action-agree", "most"),
        ("rot-bad", "no"),
        ("m", "inf"),
        ("rot-moral-foundations", "care-harm|kindness"),
        ("rot-moral-foundations", "care-harm|"),
    ],
)
def test_a_value_off_its_scale_is_an_error_that_names_file_line_column_and_value(
    write_table: Callable[..., Path], column: str, value: str
) -> None:
    path = write_table({"action": "two\nlines"}, {"rot-bad": "1", column: value}, {column: value})
    with pytest.raises(DataError) as caught:
        read(path)
    for part in (str(path), "line 4 ", f"`{column}`", repr(value)):
        assert part in str(caught.value)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(write_table: Callable[..., Path], column: str) -> None:
    path = write_table({}, columns=tuple(name for name in COLUMNS if name != column))
    with pytest.raises(DataError, match=f"lacks `{column}`"):
        read(path)


def test_a_missing_file_and_a_folder_and_an_empty_file_are_errors(tmp_path: Path) -> None:
    empty = tmp_path / "empty.tsv"
    empty.touch()
    with pytest.raises(DataError, match=r"empty\.tsv is empty"):
        read(empty)
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "absent.tsv")
    with pytest.raises(DataError, match="Is a directory"):
        read(tmp_path)


def test_a_file_of_which_no_row_is_kept_is_an_error_that_counts_the_reasons(
    write_table: Callable[..., Path],
) -> None:
    with pytest.raises(
        DataError, match=r"all 2 were dropped \(m is not 1: 1, action is missing: 1"
    ):
        read(write_table({"m": "3"}, {"action": ""}))
    with pytest.raises(DataError, match="all 0 were dropped"):
        read(write_table())


def test_text_that_is_not_utf8_is_an_error_that_names_the_line_and_the_byte(
    write_table: Callable[..., Path],
) -> None:
    path = write_table({}, {"action": "kissing a fiancée"})
    damaged = path.read_bytes().replace("é".encode(), b"\xe9")
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=f"line 3 is not: byte {damaged.index(0xE9)} is 0xe9"):
        read(path)
    path.write_text("area\tm\n", "utf-16")
    with pytest.raises(DataError, match="line 1 is not"):
        read(path)


@pytest.mark.parametrize("cut", [10, 30, 45])
def test_a_truncated_last_line_is_an_error_that_names_it(
    write_table: Callable[..., Path], cut: int
) -> None:
    path = write_table({"action": "two\nlines"}, {})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"must have 25 fields, but line 4 has \d+\."):
        read(path)


def test_a_line_with_a_field_too_many_is_an_error_that_names_it(
    write_table: Callable[..., Path],
) -> None:
    path = write_table({}, {})
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines()[1] + b"\tmore\n")
    with pytest.raises(DataError, match="line 4 has 26"):
        read(path)


def test_a_quote_that_never_closes_is_an_error(write_table: Callable[..., Path]) -> None:
    path = write_table({}, {})
    with path.open("a") as file:
        file.write('x\t"unclosed\n' + "more text\n" * 20_000)
    with pytest.raises(DataError, match=r"line 4 .*quote"):
        read(path)


def test_a_quote_inside_an_unquoted_field_is_kept_or_refused_but_never_misread(
    write_table: Callable[..., Path],
) -> None:
    path = write_table({"action": "plain"}, {"action": "MARK"}, {"action": "after"})
    text = path.read_text("utf-8")
    Path(path).write_text(text.replace("MARK", 'saying "no" twice'), "utf-8")
    assert read(path).rows["action"].to_list() == ["plain", 'saying "no" twice', "after"]
    Path(path).write_text(text.replace("MARK", 'saying "no'), "utf-8")
    with pytest.raises(DataError, match="quote"):
        read(path)
