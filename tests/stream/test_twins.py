"""`twin:ID` in a configuration, and runs that say whose twin they are of."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.core.errors import ModelError
from trimtab.models.card import ModelConfig
from trimtab.models.loading import describe
from trimtab.stream import twins
from trimtab.stream.config import ExtractConfig, MeasureConfig
from trimtab.stream.diagnose import diagnose
from trimtab.stream.publish import tags

BASE, MOE = "Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-235B-A22B"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def models(out: Path) -> tuple[ModelConfig, ...]:
    return twins.resolve(
        (
            ModelConfig(id=f"twin:{BASE}"),
            ModelConfig(id=BASE),
            ModelConfig(id=f"twin:{MOE}", name="mine", precision="nf4", source="resident"),
        ),
        out,
    )


def test_a_twin_stands_in_and_everything_else_stays(
    out: Path, models: tuple[ModelConfig, ...]
) -> None:
    base, untouched, moe = models
    assert (base.id, base.name) == (str(out / "twins" / "Qwen3-0.6B-Base"), "Qwen3-0.6B-Base-twin")
    assert untouched == ModelConfig(id=BASE)
    assert (moe.name, moe.precision, moe.source) == ("mine", "nf4", "resident")


def test_a_twin_is_made_once(out: Path, models: tuple[ModelConfig, ...]) -> None:
    told: list[str] = []
    again = twins.resolve((ModelConfig(id=f"twin:{BASE}"),), out, lambda *step: told.append(step))
    assert (again[0], told) == (models[0], [])


def test_a_twins_card_has_its_originals_family_and_group(models: tuple[ModelConfig, ...]) -> None:
    card = describe(models[0])[0]
    assert (card.family, card.group) == ("qwen3", "other")
    placed = twins.in_the_originals_place(card)
    assert (placed.family, placed.group, placed.label) == (
        "Qwen3-0.6B",
        "base",
        "Qwen3-0.6B-Base-twin",
    )
    assert twins.original(card) == BASE


def test_a_model_that_is_no_twin_keeps_its_card(toy_folder: Path) -> None:
    card = describe(ModelConfig(id=str(toy_folder)))[0]
    assert twins.in_the_originals_place(card) == card
    assert twins.original(card) is None


def test_a_twin_of_an_unknown_model_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nearest is Qwen/Qwen3-8B"):
        twins.resolve((ModelConfig(id="twin:Qwen/Qwen3-8b"),), tmp_path)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_diagnosed_twin_is_tagged_with_what_it_stands_for(configure: Callable) -> None:
    outcome = diagnose(
        configure(
            models=(ModelConfig(id=f"twin:{BASE}"),),
            extract=ExtractConfig(layers=(0, 3), token_budget=1_024),
            measures=MeasureConfig(which=("categorical",)),
        )
    )
    (diagnosis,) = outcome.diagnoses
    assert diagnosis.drawn.curves["categorical/cosine/mean"].keys() == {0, 3}
    found = tags(diagnosis)
    assert (found["twin_of"], found["family"], found["group"]) == (BASE, "Qwen3-0.6B", "base")
    assert set(outcome.runs) == {"Qwen3-0.6B-Base-twin"}
