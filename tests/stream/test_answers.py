"""Answers through Ray are those of one process, and a run that was cut short goes on."""

from pathlib import Path

import pytest
from armed_toys import D_MODEL, WIDTH, make_arms, make_materials

from trimtab.core.errors import ActivationError, CoderError
from trimtab.edits.arms import BASELINE, Arm, Coder, Materials
from trimtab.evaluation.answer_store import AnswerStore
from trimtab.evaluation.answers import Speaker, answer_all, ask, described
from trimtab.evaluation.decoding import DecodingConfig
from trimtab.evaluation.prompts import Question
from trimtab.models.card import ModelConfig
from trimtab.models.hardware import MARGIN, Machine, machine_of
from trimtab.models.loading import describe, load
from trimtab.stream.answers import AnswerConfig, answer_stream, placement_for
from trimtab.stream.config import WorkerConfig

QUESTIONS = [
    Question("one", "giving a his"),
    Question("two", "stealing the"),
    Question("three", "of"),
]
DECODING = DecodingConfig(max_new_tokens=6, template="raw")
CONFIG = AnswerConfig(decoding=DECODING, rows=4, workers=WorkerConfig(replicas=2))


@pytest.mark.ray
def test_ray_gives_what_one_process_gives_and_goes_on_where_it_stopped(
    local_ray: None, toy_folder: Path, tmp_path: Path
) -> None:
    spec, materials, arms = ModelConfig(id=str(toy_folder)), make_materials(), make_arms()
    loaded = load(spec)
    asked = ask(described(*describe(spec)), QUESTIONS, arms, materials, DECODING)
    speaker = Speaker(loaded, materials, DECODING)
    expected = answer_all(speaker, asked, AnswerStore(tmp_path / "here"), rows=18)
    store = AnswerStore(tmp_path / "there")
    store.write(expected[:5])
    told: list[tuple[int, int]] = []
    found = answer_stream(
        spec, QUESTIONS, arms, materials, CONFIG, store.folder, lambda *x: told.append(x)
    )
    assert [a.tokens for a in found.answers] == [a.tokens for a in expected]
    assert [a.key for a in found.answers] == [a.key for a in expected]
    assert found.made == 18 - 5
    assert found.tokens == sum(len(a.tokens) for a in expected[5:])
    assert (told[0], told[-1]) == ((5, 18), (18, 18))
    again = answer_stream(spec, QUESTIONS, arms, materials, CONFIG, store.folder)
    assert (again.made, again.tokens, again.seconds) == (0, 0, 0)
    assert again.answers == found.answers


@pytest.mark.ray
def test_what_a_worker_meets_reaches_the_driver_as_it_was(
    local_ray: None, toy_folder: Path, tmp_path: Path
) -> None:
    arm = Arm(name="huge", kind="direction", layer=1, alpha=1e39, direction="away")
    with pytest.raises(ActivationError, match="under arm huge"):
        answer_stream(
            ModelConfig(id=str(toy_folder)), QUESTIONS, [arm], make_materials(), CONFIG, tmp_path
        )


def test_a_coder_of_another_model_is_refused_before_anything_starts(
    toy_folder: Path, tmp_path: Path
) -> None:
    materials = make_materials()
    other = Materials({"aligned": Coder(materials.coders["aligned"].sae, "org/other")})
    spec = ModelConfig(id=str(toy_folder))
    with pytest.raises(CoderError, match="of org/other was trained on another model"):
        answer_stream(spec, QUESTIONS, make_arms()[1:2], other, CONFIG, tmp_path)


def test_a_replica_has_whole_cards_or_none(toy_folder: Path) -> None:
    spec = ModelConfig(id=str(toy_folder))
    materials = make_materials()
    asked = ask(described(*describe(spec)), QUESTIONS, make_arms(), materials, DECODING)
    cards = machine_of("h100-80gb:4", 10**11)
    assert placement_for(spec, [asked[:6]], materials, CONFIG, cards).gpus_per_replica == 1
    host = Machine(None, 0, 0, 10**11, cores=2)
    assert placement_for(spec, [asked[:6]], materials, CONFIG, host).gpus_per_replica == 0
    on_cpu = spec.model_copy(update={"device": "cpu"})
    assert placement_for(on_cpu, [asked[:6]], materials, CONFIG, cards).gpus_per_replica == 0


def test_a_replica_has_room_for_its_coders_too(toy_folder: Path) -> None:
    spec = ModelConfig(id=str(toy_folder))
    asked = ask(described(*describe(spec)), QUESTIONS, [BASELINE], Materials(), DECODING)
    cards = machine_of("h100-80gb:4", 10**11)
    alone, beside = (
        placement_for(spec, [asked[:6]], materials, CONFIG, cards).needed_bytes
        for materials in (Materials(), make_materials())
    )
    coder = 2 * WIDTH * D_MODEL + 2 * WIDTH + 2 * D_MODEL  # matrices, biases, thresholds, a centre
    assert beside - alone == pytest.approx(MARGIN * 4 * (2 * coder + D_MODEL), abs=1)
