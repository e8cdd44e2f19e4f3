"""Answers: the same in any batch, each once, and a restart goes on where it stopped."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from armed_toys import loaded_toy, make_arms, make_materials
from toys import TOYS, make_toy, watched_head

from trimtab.core.errors import ActivationError, ConfigError, DataError, ModelError, OutputError
from trimtab.edits.arms import BASELINE, Arm, Materials
from trimtab.evaluation.answer_store import Answer, AnswerStore
from trimtab.evaluation.answers import (
    Asked,
    Speaker,
    answer_all,
    ask,
    batches,
    known,
    share_equal,
    stop_tokens,
    text_of,
)
from trimtab.evaluation.decoding import DecodingConfig, prompt_tokens
from trimtab.evaluation.judges.verdict import spoken
from trimtab.evaluation.prompts import Question
from trimtab.models.loading import LoadedModel

QUESTIONS = [
    Question("one", "giving a his"),
    Question("two", "stealing is of"),
    Question("three", "a the your to of"),
]
SAMPLED = DecodingConfig(max_new_tokens=12, template="raw")
GREEDY = SAMPLED.model_copy(update={"temperature": 0.0, "repetition_penalty": 1.0})
CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{% if enable_thinking is defined and not enable_thinking %}not {% endif %}is"


def asked_of(loaded: LoadedModel, decoding: DecodingConfig) -> list[Asked]:
    return ask(known(loaded), QUESTIONS, make_arms(), make_materials(), decoding)


def answers(loaded: LoadedModel, decoding: DecodingConfig, rows: int) -> list[Answer]:
    speaker = Speaker(loaded, make_materials(), decoding)
    made = batches(asked_of(loaded, decoding), rows)
    return [answer for batch in made for answer in speaker.answer(batch)]


@pytest.mark.parametrize(
    ("name", "decoding"),
    [*((name, SAMPLED) for name in TOYS), ("llama", GREEDY), ("gpt_oss", GREEDY)],
)
def test_an_answer_is_the_same_alone_and_among_sixteen(name: str, decoding: DecodingConfig) -> None:
    loaded = loaded_toy(name)
    with watched_head(loaded.model) as in_one_piece:
        alone, among = answers(loaded, decoding, 1), answers(loaded, decoding, 16)
    assert all(in_one_piece)
    assert len(alone) == len(QUESTIONS) * len(make_arms())
    assert {a.key: a.tokens for a in alone} == {a.key: a.tokens for a in among}
    assert {a.key: a.finish for a in alone} == {a.key: a.finish for a in among}
    assert len({tuple(a.tokens) for a in among}) > len(among) / 4  # arms and prompts do differ
    torch.testing.assert_close(
        torch.tensor([a.strength for a in sorted(alone)]),
        torch.tensor([a.strength for a in sorted(among)]),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", TOYS)
def test_the_greedy_baseline_is_what_transformers_generates(name: str) -> None:
    loaded = loaded_toy(name)
    asked = ask(known(loaded), QUESTIONS, [BASELINE], Materials(), GREEDY)
    found = {a.prompt_id: a for a in Speaker(loaded, Materials(), GREEDY).answer(asked[:1])}
    (one,) = found.values()
    ends = sorted(stop_tokens(loaded))
    theirs = (
        make_toy(name)
        .generate(
            torch.tensor([asked[0].tokens]),
            attention_mask=torch.ones(1, len(asked[0].tokens), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=ends,
        )[0, len(asked[0].tokens) :]
        .tolist()
    )
    assert one.tokens == [token for token in theirs if token not in ends]
    assert one.strength == 0


def test_bfloat16_agreement_is_a_share() -> None:
    loaded = loaded_toy()
    loaded.model.to(torch.bfloat16)
    share = share_equal(answers(loaded, GREEDY, 1), answers(loaded, GREEDY, 16))
    assert 0 <= share <= 1
    full = answers(loaded_toy(), GREEDY, 16)
    assert share_equal(full, full) == 1
    other = [full[0]._replace(tokens=[1]), *full[1:]]
    assert share_equal(full, other) == pytest.approx(1 - 1 / len(full))
    assert math.isnan(share_equal(full, []))


def test_every_arm_draws_from_a_stream_of_its_own_and_seeds_matter() -> None:
    loaded = loaded_toy()
    twins = [Arm(name="a"), Arm(name="b")]

    def said(decoding: DecodingConfig) -> list[list[int]]:
        asked = ask(known(loaded), QUESTIONS[:1], twins, Materials(), decoding)
        return [a.tokens for a in Speaker(loaded, Materials(), decoding).answer(asked)]

    first, second = said(SAMPLED)
    assert first != second
    assert said(SAMPLED) == [first, second]
    assert said(SAMPLED.model_copy(update={"seed": 1}))[0] != first


def test_how_an_answer_ends_is_said() -> None:
    loaded = loaded_toy()
    (likely,) = ask(known(loaded), QUESTIONS[:1], [BASELINE], Materials(), GREEDY)
    plain = Speaker(loaded, Materials(), GREEDY)
    (long,) = plain.answer([likely])
    assert (long.finish, len(long.tokens)) == ("length", 12)
    later = next(token for token in long.tokens if token != long.tokens[0])
    plain.stop = frozenset({later})
    (stopped,) = plain.answer([likely])
    assert stopped.finish == "stop"
    assert stopped.tokens == long.tokens[: long.tokens.index(later)]
    plain.stop = frozenset({long.tokens[0]})
    (empty,) = plain.answer([likely])
    assert (empty.finish, empty.tokens, empty.text) == ("stop", [], "")


def test_blanks_up_to_the_limit_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_toy()
    (likely,) = ask(known(loaded), QUESTIONS[:1], [BASELINE], Materials(), GREEDY)
    monkeypatch.setattr("trimtab.evaluation.answers.text_of", lambda *_: "")
    (blank,) = Speaker(loaded, Materials(), GREEDY).answer([likely])
    assert (blank.finish, len(blank.tokens), blank.text) == ("length", 12, "")


def test_batches_hold_one_length_and_everything_once() -> None:
    asked = asked_of(loaded_toy(), GREEDY)
    made = batches(asked, 5)
    assert all(len({len(one.tokens) for one in batch}) == 1 for batch in made)
    assert max(map(len, made)) == 5
    assert sorted(one.key for batch in made for one in batch) == sorted(a.key for a in asked)


def test_a_restart_goes_on_and_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_toy()
    asked, speaker = asked_of(loaded, SAMPLED), Speaker(loaded, make_materials(), SAMPLED)
    whole = answer_all(speaker, asked, AnswerStore(tmp_path / "whole"), rows=4)
    store, real, seen = AnswerStore(tmp_path / "cut"), speaker.answer, []

    def dying(batch: list[Asked]) -> list[Answer]:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(batch))
        return real(batch)

    monkeypatch.setattr(speaker, "answer", dying)
    with pytest.raises(KeyboardInterrupt):
        answer_all(speaker, asked, store, rows=4)
    assert len(store.keys()) == sum(seen)
    again: list[int] = []
    monkeypatch.setattr(speaker, "answer", lambda batch: again.append(len(batch)) or real(batch))
    told: list[tuple[int, int]] = []
    found = answer_all(speaker, asked, store, rows=7, report=lambda i, n: told.append((i, n)))
    assert sum(again) == len(asked) - sum(seen)
    assert told[0] == (sum(seen), len(asked))
    assert told[-1] == (len(asked), len(asked))
    without = [one._replace(strength=0.0) for one in found]
    assert without == [one._replace(strength=0.0) for one in whole]
    assert len(store.read()) == len(asked)
    answer_all(speaker, asked, store, rows=7)
    assert sum(again) == len(asked) - sum(seen)


def test_a_store_reads_what_two_workers_wrote_once_and_refuses_damage(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    rows = [Answer(f"k{i}", f"p{i}", "arm", "你好 </s>", [1, 2], "stop", 0.5) for i in range(3)]
    store.write(rows[:2])
    store.write(rows[:2])
    store.write(rows[1:])
    assert len(list(tmp_path.iterdir())) == 2
    assert store.read() == rows
    assert store.read(["k2", "k0"]) == [rows[2], rows[0]]
    with pytest.raises(DataError, match="lacks 1 of 2 answers"):
        store.read(["k0", "other"])
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(DataError, match=r"part-0.parquet cannot be read. Delete the file"):
        store.keys()


def test_a_disk_that_is_full_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AnswerStore(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trimtab.evaluation.answer_store.pq.write_table", full)
    with pytest.raises(OutputError, match="Free some disk space"):
        store.write([Answer("k", "p", "a", "", [], "stop", 0.0)])
    assert not list(tmp_path.iterdir())


def test_another_prompt_setting_or_coder_is_another_key() -> None:
    loaded = loaded_toy()

    def key(question: Question = QUESTIONS[0], model: str = "m", **fields: object) -> str:
        decoding = GREEDY.model_copy(update=fields)
        whom = known(loaded, identity=model)
        (one,) = ask(whom, [question], make_arms()[1:2], make_materials(), decoding)
        return one.key

    others = {key(QUESTIONS[1]), key(model="n"), key(seed=1), key(max_new_tokens=3)}
    assert key() == key()
    assert len(others | {key()}) == 5


def test_memory_that_runs_out_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_toy()
    expected = answers(loaded, GREEDY, 16)
    from trimtab.evaluation import answers as module

    real = module.generate
    failed: list[int] = []

    def small(model: object, rows: list, *rest: object) -> list:
        if len(rows) > 4:
            failed.append(len(rows))
            raise RuntimeError("can't allocate memory: you tried to allocate 1 bytes")
        return real(model, rows, *rest)

    monkeypatch.setattr(module, "generate", small)
    assert share_equal(answers(loaded, GREEDY, 16), expected) == 1
    assert failed == [12, 6]  # and the two other sixes are not tried
    monkeypatch.setattr(module, "generate", lambda *_: small(None, [0] * 5))
    with pytest.raises(ModelError, match="Out of memory with one answer of at most 12 tokens"):
        answers(loaded, GREEDY, 1)


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_an_arm_that_breaks_the_model_is_named(decoding: DecodingConfig) -> None:
    loaded = loaded_toy()
    arm = Arm(name="huge", kind="blend", layer=1, alpha=1e38, coder="plain")
    asked = ask(known(loaded), QUESTIONS[:1], [BASELINE, arm], make_materials(), decoding)
    with pytest.raises(ActivationError, match=r"prompt one under arm huge. Lower the arm's alpha"):
        Speaker(loaded, make_materials(), decoding).answer(asked)


def test_two_arms_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="baseline occur twice"):
        ask(known(loaded_toy()), QUESTIONS, [BASELINE, BASELINE], Materials(), GREEDY)


def test_a_model_without_a_chat_template_says_which_option_to_set() -> None:
    loaded = loaded_toy()
    with pytest.raises(ModelError, match=r"no chat template .* Set `template: raw` \(`--raw`\)"):
        ask(known(loaded), QUESTIONS, [BASELINE], Materials(), DecodingConfig())


def test_a_chat_template_gets_the_system_prompt_and_whether_to_think() -> None:
    tokenizer = loaded_toy().tokenizer
    tokenizer.chat_template = CHAT
    words = {False: "not is", None: "is"}
    for thinking, end in words.items():
        decoding = DecodingConfig(system="that your", thinking=thinking)
        found = prompt_tokens(tokenizer, Question("q", "giving"), decoding)
        assert found == tokenizer(f"system that your user giving {end}")["input_ids"]


@pytest.mark.parametrize(
    ("decoding", "way_out"),
    [
        (DecodingConfig(system="that your"), r"leave `system` empty \(`--system \"\"`\)"),
        (DecodingConfig(), "Set `template: raw`"),
    ],
)
def test_a_chat_template_that_refuses_says_which_option_to_set(
    decoding: DecodingConfig, way_out: str
) -> None:
    tokenizer = loaded_toy().tokenizer
    tokenizer.chat_template = "{{ raise_exception('No such role') }}"
    with pytest.raises(ModelError, match=rf"refuses .*: No such role\. .*{way_out}"):
        prompt_tokens(tokenizer, Question("q", "giving"), decoding)


def test_a_prompt_without_a_token_is_named() -> None:
    with pytest.raises(DataError, match="Prompt 'blank' has no token"):
        ask(known(loaded_toy()), [Question("blank", " ")], [BASELINE], Materials(), GREEDY)


def test_a_prompt_that_fills_the_context_is_named_and_one_with_room_is_asked() -> None:
    whom = known(loaded_toy())
    questions = [Question("short", "of " * 63), Question("long", "of " * 64)]
    said = r"'long' has 64 tokens, and the model's context is 64\. Shorten it"
    with pytest.raises(DataError, match=said):
        ask(whom, questions, [BASELINE], Materials(), GREEDY)
    room = ask(whom, questions[:1], [BASELINE], Materials(), GREEDY)
    silent = ask(whom._replace(context=None), questions, [BASELINE], Materials(), GREEDY)
    assert room == silent[:1]


class Says:
    """A tokenizer that decodes to what it is told."""

    def __init__(self, prompt: str, said: str) -> None:
        self.texts = {(1, 2, 3, 4): prompt, (5,): said}

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        text = self.texts[tuple(ids)]
        return re.sub(r"<\|[^|]*\|>", "", text) if skip_special_tokens else text


CHANNELS = "<|channel|>analysis<|message|>Rude?<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>It is.<|return|>"


@pytest.mark.parametrize(
    ("prompt", "said", "text", "aloud"),
    [
        ("is", "<think>\nRude?\n</think>\nIt is.", "<think>\nRude?\n</think>\nIt is.", "It is."),
        ("<think>\n", "Rude?\n</think>\nIt is.", "<think>\nRude?\n</think>\nIt is.", "It is."),
        ("<think>\n", "Rude?", "<think>\nRude?", ""),
        ("is", CHANNELS + FINAL, "<think>\nanalysisRude?assistant\n</think>\nIt is.", "It is."),
        ("is", CHANNELS, "<think>\nanalysisRude?assistant", ""),
        ("is", FINAL, "<think>\n\n</think>\nIt is.", "It is."),
        ("is", "It is.", "It is.", "It is."),
        ("<think>\n", "", "", ""),
    ],
)
def test_thoughts_are_marked_whoever_opened_them(
    prompt: str, said: str, text: str, aloud: str
) -> None:
    tokenizer: Any = Says(prompt, said)
    found = text_of.__wrapped__(tokenizer, [0, 1, 2, 3, 4], [5])  # pyright: ignore[reportFunctionMemberAccess]
    assert found == text
    assert spoken(found) == aloud
