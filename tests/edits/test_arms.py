import math

import pytest
import torch
from armed_toys import D_MODEL, make_arms, make_materials, make_sae
from pydantic import ValidationError

from trimtab.core.config import build
from trimtab.core.errors import CoderError, ConfigError
from trimtab.edits.arms import BASELINE, Arm, Coder, Materials

BLEND = {"name": "x", "kind": "blend", "layer": 1, "alpha": 0.1, "coder": "aligned"}


@pytest.mark.parametrize("alpha", [math.nan, math.inf])
def test_an_alpha_that_is_no_number_is_refused_by_name(alpha: float) -> None:
    with pytest.raises(ConfigError, match="`alpha`: Input should be a finite number"):
        build(Arm, BLEND | {"alpha": alpha}, where="arms.yaml")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coder": ""}, "must name a `coder`"),
        ({"direction": "away"}, "must not name a `direction`"),
        ({"kind": "delta"}, "must name a `against`"),
        ({"layer": None}, "needs a `layer`"),
        ({"kind": "none", "coder": ""}, "has no `layer`"),
    ],
)
def test_an_arm_says_just_what_its_kind_uses(fields: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Arm(**BLEND | fields)


def test_every_kind_of_arm_fits_the_model_it_was_made_for() -> None:
    for arm in make_arms():
        make_materials().check(arm, num_layers=4, d_model=D_MODEL)


def test_a_layer_out_of_range_names_the_last_one() -> None:
    arm = Arm(**BLEND | {"layer": 4})
    with pytest.raises(ConfigError, match=r"layer=4, num_layers=4\) of org/model.*one is 3"):
        make_materials().check(arm, 4, D_MODEL, "org/model")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"the coder 'other'.*known: aligned, plain"):
        make_materials().check(Arm(**BLEND | {"coder": "other"}), 4, D_MODEL)


def test_a_coder_of_another_width_is_refused_with_both_widths_and_models() -> None:
    materials = Materials({"aligned": Coder(make_sae(d_model=48), "org/wide")})
    with pytest.raises(CoderError, match=r"of org/wide is of d_model=48.*has d_model=32"):
        materials.check(Arm(**BLEND), 4, D_MODEL)


def test_a_coder_of_another_model_is_refused_with_both_named() -> None:
    materials = Materials({"aligned": Coder(make_sae(), "org/a")})
    with pytest.raises(CoderError, match=r"of org/a was trained on another model.*on, org/b"):
        materials.check(Arm(**BLEND), 4, D_MODEL, "org/b")
    materials.check(Arm(**BLEND), 4, D_MODEL, "org/a")


def test_a_coder_of_another_layer_is_refused() -> None:
    materials = Materials({"aligned": Coder(make_sae(), layer=2)})
    with pytest.raises(CoderError, match="trained at layer 2, but arm 'x' puts it at layer 1"):
        materials.check(Arm(**BLEND), 4, D_MODEL)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_direction_that_points_nowhere_is_refused(value: float) -> None:
    materials = Materials(directions={"away": torch.full((D_MODEL,), value)})
    with pytest.raises(CoderError, match="must be finite and not zero"):
        materials.check(make_arms()[4], 4, D_MODEL)


def test_an_identity_knows_weights_and_alpha_but_not_the_name() -> None:
    arm, materials = Arm(**BLEND), make_materials()
    same = materials.identity(Arm(**BLEND | {"name": "y"}))
    assert materials.identity(arm) == same == make_materials().identity(arm)
    assert materials.identity(arm) != materials.identity(Arm(**BLEND | {"alpha": 0.2}))
    sae = make_sae()
    sae.b_enc[3] += 1e-6
    assert Materials({"aligned": Coder(sae)}).identity(arm) != same
    assert Materials().identity(BASELINE)


def test_moved_materials_are_copies() -> None:
    materials = make_materials()
    moved = materials.to(torch.device("cpu"), torch.bfloat16)
    assert moved.coders["aligned"].sae.W_enc.dtype == torch.bfloat16
    assert moved.directions["away"].dtype == torch.bfloat16
    assert materials.coders["aligned"].sae.W_enc.dtype == torch.float32
