"""What a training configuration may say."""

import pytest
from pydantic import ValidationError

from trimtab.core.config import build
from trimtab.core.errors import ConfigError
from trimtab.sae.coder import CoderConfig
from trimtab.sae.config import StopRule, TrainConfig


def test_the_studys_recipe_is_what_its_paper_says() -> None:
    recipe = TrainConfig.li2026(width=4096, target_l0=50.0)
    assert recipe.coder == CoderConfig(kind="relu", width=4096)
    assert recipe.model_dump(exclude={"coder", "report_steps", "validation_rows"}) == {
        "epochs": 200.0,
        "batch_size": 4096,
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "epsilon": 1e-8,
        "warmup_epochs": 5.0,
        "final_share": 0.01,
        "clip": 1.0,
        "precision": "bfloat16",
        "selection": "exact",
        "penalty": 1e-3,
        "target_l0": 50.0,
        "bandwidth": 0.05,
        "unit_scale": False,
        "tied_start": False,
        "project_gradient": False,
        "aux_coefficient": 1 / 32,
        "aux_latents": None,
        "dead_after_rows": 100_000,
        "stop": {"mse": 1e-3, "l0_tolerance": 0.1, "epochs": 5},
    }
    assert TrainConfig.li2026().coder.width == 65_536


def test_elsewhere_the_gradient_is_projected_and_dead_latents_are_revived() -> None:
    config = TrainConfig(coder=CoderConfig(width=8, k=2))
    assert config.project_gradient
    assert config.aux_coefficient > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coder": {"kind": "topk", "width": 8, "k": 9}}, "`k <= width` must hold"),
        ({"coder": {"width": 0}}, "greater than 0"),
        ({"target_l0": 3.0}, r"`target_l0` is for relu and jumprelu, but the coder is topk"),
        (
            {"coder": {"kind": "relu", "width": 8}, "target_l0": 9.0},
            r"`target_l0 <= width` must hold, but got target_l0=9, width=8",
        ),
        ({"warmup_epochs": 11.0}, r"`warmup_epochs <= epochs` must hold"),
        ({"stop": {"mse": 0.1}}, "`stop` compares L0 with `target_l0`"),
        ({"learning_rate": -1.0}, "greater than 0"),
        ({"epoch": 3}, "did you mean `epochs`"),
    ],
)
def test_what_cannot_be_is_one_clear_error(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TrainConfig, {"coder": {"width": 8, "k": 2}, **fields}, "here")


def test_a_record_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        StopRule(mse=0.1).epochs = 3
