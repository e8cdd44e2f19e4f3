"""The alignment study keeps what every study promises."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from trimtab.core.config import load_job
from trimtab.core.names import NAMES
from trimtab.models.card import ModelConfig
from trimtab.sweep.spec import SweepConfig
from trimtab.sweep.studies.align import STUDY, AlignTrial
from trimtab.sweep.study import Study, study_named

DEMO = Path(__file__).parents[2] / "sweeps" / "align-demo.yaml"


def test_it_is_a_study_whose_metrics_have_listed_names() -> None:
    assert isinstance(STUDY, Study)
    assert study_named("align") is STUDY
    assert STUDY.curve | STUDY.final <= NAMES


def test_the_demos_base_is_a_trial_and_its_objective_is_on_the_curve() -> None:
    demo = load_job(DEMO, SweepConfig)
    trial = AlignTrial.model_validate(demo.base)
    assert trial.data.split == "action"
    assert demo.objective.metric in STUDY.curve


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "one of `sae` and `train`"),
        (
            {"sae": "x", "train": {"coder": {"kind": "relu", "width": 8}}},
            "one of `sae` and `train`",
        ),
        ({"train": {"coder": {"kind": "relu", "width": 8}}}, "`layer` must be given"),
    ],
)
def test_a_trial_says_where_its_coder_comes_from(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        AlignTrial.model_validate({"model": ModelConfig(id="nursery:base"), **fields})


def test_the_best_trial_stands_before_and_after_on_test_rows(tmp_path: Path) -> None:
    stages = {"before": 0.2, "after": 0.3, "change": 0.1, "reidentified": 0.25}
    scores: dict[str, object] = {f"align/{k}/fvu": v for k, v in stages.items()}
    best = {"trial": "0007", "ending": "finished", "align/after/rows": 719.0, **scores}
    other = {"trial": "0001", "ending": "finished", "align/after/rows": 719.0}
    closing = STUDY.closing([best, other])
    assert closing is not None
    assert "0007" in closing.title
    assert "719 test rows" in closing.says
    row = next(row for row in closing.rows if row[""] == "variance unexplained")
    assert list(row.values())[1:] == ["0.2000", "0.3000", "0.1000", "0.2500"]
    (figure,) = STUDY.figures([best, other], tmp_path)
    assert figure.stat().st_size > 5_000
    assert STUDY.closing([{"trial": "0000", "ending": "failed"}]) is None
    assert STUDY.figures([], tmp_path) == []
