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
