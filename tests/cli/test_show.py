"""What is printed while a run goes and when it is done."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from trimtab.cli.noise import pump_lines
from trimtab.cli.show import Stages, near, summary_table
from trimtab.report.tables import Cell

ROW: dict[str, Cell] = {
    "model": "nursery-instruct",
    "layers": 6,
    "rows": 2905,
    "cosine": -0.125,
    "cosine_layer": 3,
    "gradient": 0.5,
    "gradient_layer": 2,
    "ari": 0.31,
    "ari_layer": 4,
    "ari_noise": 0.621,
    "r2": 0.25,
    "r2_layer": 5,
}
ROUNDED_TO_0 = ROW | {"ari": -0.001}
UNDEFINED = ROW | {"ari": None, "ari_layer": None, "ari_noise": None, "r2": None, "r2_layer": None}


def printed(rows: list[dict[str, Cell]], reused: list[bool]) -> list[str]:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(rows, reused))
    return capture.get().splitlines()


def test_the_table_fits_80_columns_and_shows_ari_with_its_noise() -> None:
    (line,) = [line for line in printed([ROW], [False]) if "nursery" in line]
    words = " ".join(line.split())
    assert words == "nursery-instruct 6 -0.12 L3 0.50 L2 0.31 L4 (62%) 0.25 L5 new"


def test_what_is_undefined_is_a_dash_and_what_was_reused_says_so() -> None:
    (line,) = [line for line in printed([UNDEFINED], [True]) if "nursery" in line]
    assert line.split()[-3:] == ["–", "–", "reused"]


def test_off_a_terminal_each_stage_is_one_line_on_stderr_once_it_is_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Stages() as stages:
        for done in range(4):
            stages.report("[toy]: extract", done, 3)
        stages.report("half", 1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(" (")[0] for line in err.splitlines()] == ["get ready", "[toy]: extract"]


def test_a_path_below_here_is_shown_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert near(tmp_path / "runs" / "a.png") == "runs/a.png"
    assert near(Path("/elsewhere/a.png")) == "/elsewhere/a.png"


def test_only_rays_own_noise_is_dropped_from_stderr() -> None:
    source, sink = os.pipe(), os.pipe()
    kept = b"E a real error\nunfinished"
    noise = b"E actor has constructor arguments in the object store and max_restarts > 0.\n"
    os.write(source[1], noise + kept)
    os.close(source[1])
    pump_lines(source[0], sink[1])
    os.close(sink[1])
    with os.fdopen(sink[0], "rb") as file:
        assert file.read() == kept


def test_a_value_that_rounds_to_zero_has_no_sign() -> None:
    assert "0.00 L4 (62%)" in "\n".join(printed([ROUNDED_TO_0], [False]))
    assert "-0.00" not in "\n".join(printed([ROUNDED_TO_0], [False]))
