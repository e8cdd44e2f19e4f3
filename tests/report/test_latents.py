"""Figures and the table of moral latents."""

from pathlib import Path

import pytest

from trimtab.core.poles import FOUNDATIONS, POLES
from trimtab.report.latents import STAGES, comparison_table, draw_aligned, draw_located


def test_the_table_has_a_row_for_each_score_and_none_for_what_is_undefined() -> None:
    rows = comparison_table({"align/before/fvu": 0.2, "align/after/fvu": 0.1})
    (fvu,) = [row for row in rows if row["score"] == "variance unexplained"]
    assert (fvu["before"], fvu["after"], fvu["change"]) == (0.2, 0.1, None)
    assert len({tuple(row) for row in rows}) == 1


@pytest.mark.parametrize("missing", ["", "care", "all"])
def test_before_and_after_are_drawn_whatever_is_undefined(missing: str, tmp_path: Path) -> None:
    metrics = {
        f"align/{stage}/{score}/{concept}": 0.1 * i
        for i, stage in enumerate(STAGES)
        for score, concepts in (("prototypicality", POLES), ("pair_cosine", FOUNDATIONS))
        for concept in concepts
        if missing != "all" and concept != missing
    }
    (path,) = draw_aligned(metrics, "a toy", tmp_path / "figures")
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("empty", [False, True])
def test_strengths_are_drawn_also_without_any(empty: bool, tmp_path: Path) -> None:
    strengths = {pole: [] if empty else [(0.3, True), (0.12, False)] for pole in POLES}
    (path,) = draw_located(strengths, 0.1, "a toy", tmp_path)
    assert path.stat().st_size > 5_000
