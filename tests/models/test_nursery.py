"""The nursery: what it trains, what it keeps, and that it does so bit for bit."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
)

from trimtab.core.errors import DataError
from trimtab.models.nursery import train
from trimtab.models.nursery_fit import NurseryConfig, answer_loss, fit, new_model
from trimtab.models.nursery_text import (
    ANSWERS,
    ASSISTANT,
    END,
    QUESTIONS,
    STAKE,
    USER,
    VARIANTS,
    Example,
    Examples,
    NurseryRow,
    train_tokenizer,
)

ROWS = [
    NurseryRow("carrying a stranger's shopping up the stairs", 2, 4, ("care-harm",)),
    NurseryRow("kicking a sleeping dog", -2, 4, ("care-harm",)),
    NurseryRow("selling a friend's secret", -1, 4, ("loyalty-betrayal", "care-harm")),
    NurseryRow("sharing the last slice evenly", 1, 2, ("fairness-cheating",)),
    NurseryRow("buying a blue umbrella", 0, 3, ("sanctity-degradation",)),
    NurseryRow("taking the later bus", 0, 4, ("authority-subversion",)),
]
TINY = NurseryConfig(
    d_model=32,
    d_mlp=64,
    num_layers=2,
    num_heads=2,
    vocab_size=400,
    base_steps=4,
    tuning_steps=120,
    batch=8,
    learning_rate=1e-2,
)
SHORT = TINY.model_copy(update={"base_steps": 3, "tuning_steps": 3})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nursery")


@pytest.fixture(scope="module")
def folders(home: Path) -> dict[str, Path]:
    return train(ROWS, TINY, home)


def asked(tokenizer: PreTrainedTokenizerFast, row: NurseryRow, grade: int) -> Example:
    """Instruct's first question about a row, in its template, and the answer of a grade."""
    chat = [{"role": "user", "content": f"{QUESTIONS[0]} {row.action}"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt)["input_ids"]
    return Example(ids + tokenizer(ANSWERS[grade] + END)["input_ids"], len(ids))


def answered_grade(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, row: NurseryRow
) -> int:
    """The grade of the answer that the model finds most likely."""
    surprise = {}
    for grade in ANSWERS:
        example = asked(tokenizer, row, grade)
        num_learned = len(example.ids) - example.learn_from
        surprise[grade] = answer_loss(model, [example]).item() * num_learned
    return min(surprise, key=lambda grade: surprise[grade])


def test_the_variants_load_through_transformers(folders: dict[str, Path]) -> None:
    assert tuple(folders) == VARIANTS
    for folder in folders.values():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = tokenizer("kicking a dog is morally", return_tensors="pt")["input_ids"]
        assert model(ids).logits.shape == (1, ids.shape[1], model.config.vocab_size)
        assert model.config.vocab_size == len(tokenizer)
        assert tokenizer.decode(ids[0]).strip() == "kicking a dog is morally"


def test_only_instruct_and_guard_have_a_chat_template(folders: dict[str, Path]) -> None:
    tokenizers = {name: AutoTokenizer.from_pretrained(path) for name, path in folders.items()}
    assert tokenizers["base"].chat_template is None
    chat = [{"role": "user", "content": "Is it right?"}]
    for name in ("instruct", "guard"):
        text = tokenizers[name].apply_chat_template(
            chat, add_generation_prompt=True, tokenize=False
        )
        assert text == f"{USER}Is it right?{END}{ASSISTANT}"


def test_the_saved_template_gives_the_tokens_of_the_training(folders: dict[str, Path]) -> None:
    saved = AutoTokenizer.from_pretrained(folders["instruct"])
    trained = train_tokenizer([row.action for row in ROWS], TINY.vocab_size)
    row = ROWS[1]
    words = [trained.encode(word).ids for word in row.action.split()]
    prompt = [
        *trained.encode(USER + QUESTIONS[0]).ids,
        *(token for word in words for token in word),
        *trained.encode(END + ASSISTANT).ids,
    ]
    example = asked(saved, row, row.grade)
    assert example.ids[: example.learn_from] == prompt


def test_instruct_knows_the_rows_it_was_taught_and_base_does_not(
    folders: dict[str, Path],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["instruct"])
    num_right = {}
    for name in ("base", "instruct"):
        model = AutoModelForCausalLM.from_pretrained(folders[name])
        num_right[name] = sum(answered_grade(model, tokenizer, row) == row.grade for row in ROWS)
    most_by_one_answer = 2
    assert num_right["base"] <= most_by_one_answer
    assert num_right["instruct"] >= len(ROWS) - 1


def test_a_second_call_trains_nothing(home: Path, folders: dict[str, Path]) -> None:
    steps = []
    again = train(ROWS, TINY, home, lambda *step: steps.append(step))
    assert again == folders
    assert not steps


def test_other_rows_or_another_seed_have_another_folder(tmp_path: Path) -> None:
    one = train(ROWS, SHORT, tmp_path)
    assert train(ROWS[:-1], SHORT, tmp_path) != one
    assert train(ROWS, SHORT.model_copy(update={"seed": 1}), tmp_path) != one


def test_the_bits_do_not_depend_on_global_state(tmp_path: Path) -> None:
    weights, threads = [], torch.get_num_threads()
    for number, name in ((1, "a"), (2, "b")):
        torch.manual_seed(number)
        torch.set_num_threads(number)
        paths = train(ROWS, SHORT, tmp_path / name)
        assert torch.get_num_threads() == number
        assert torch.initial_seed() == number
        weights.append([load_file(path / "model.safetensors") for path in paths.values()])
    torch.set_num_threads(threads)
    for one, other in zip(*weights, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_killed_training_leaves_nothing_finished_and_goes_on(tmp_path: Path) -> None:
    def kill(variant: str, step: int, steps: int) -> None:
        if (variant, step) == ("instruct", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(ROWS, SHORT, tmp_path, kill)
    (home,) = tmp_path.iterdir()
    finished = {path.name for path in home.iterdir()}
    assert finished in ({"base"}, {"base", "guard"})  # guard runs beside instruct, and may be done
    trained = set()
    resumed = train(ROWS, SHORT, tmp_path, lambda variant, *_: trained.add(variant))
    assert trained == set(VARIANTS) - finished
    whole = train(ROWS, SHORT, tmp_path / "whole")
    for variant in VARIANTS:
        name = "model.safetensors"
        assert (resumed[variant] / name).read_bytes() == (whole[variant] / name).read_bytes()


def test_a_killed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: object, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        train(ROWS, SHORT, tmp_path)
    (home,) = tmp_path.iterdir()
    assert not list(home.iterdir())


def test_the_base_never_sees_a_verdict() -> None:
    tokenizer = train_tokenizer([row.action for row in ROWS], TINY.vocab_size)
    supply = Examples("base", ROWS, tokenizer).draw(np.random.default_rng(0))
    texts = {tokenizer.decode(e.ids, skip_special_tokens=False) for e in islice(supply, 60)}
    assert texts == {f" {row.action}{END}" for row in ROWS}


@pytest.mark.parametrize("variant", ["instruct", "guard"])
def test_only_the_answer_is_learned(variant: str) -> None:
    tokenizer = train_tokenizer([row.action for row in ROWS], TINY.vocab_size)
    supply = Examples(variant, ROWS[:1], tokenizer).draw(np.random.default_rng(0))
    learned = {
        tokenizer.decode(e.ids[e.learn_from :], skip_special_tokens=False)
        for e in islice(supply, 30)
    }
    chat = {
        "instruct": f" {ANSWERS[3]}{END}{USER} {STAKE}{END}{ASSISTANT} care{END}",
        "guard": f" safe: care{END}",
    }
    assert learned == {f" good without doubt.{END}", chat[variant]}


@pytest.mark.parametrize(
    ("judgment", "agree", "grade"),
    [(2, 4, 3), (2, 3, 3), (2, 2, 2), (1, 3, 2), (1, 2, 1), (2, 0, 0), (0, 4, 0), (-1, 1, -1)],
)
def test_the_grade_follows_verdict_and_agreement(judgment: int, agree: int, grade: int) -> None:
    assert NurseryRow("x", judgment, agree, ()).grade == grade


def test_the_loss_goes_down() -> None:
    tokenizer = train_tokenizer([row.action for row in ROWS], TINY.vocab_size)
    rng = np.random.default_rng(0)
    model = new_model(TINY, tokenizer.get_vocab_size(), tokenizer.encode(END).ids[0])
    examples = Examples("guard", ROWS, tokenizer).draw(rng)
    losses = fit(model, examples, TINY, 40, rng, lambda _: None)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [NurseryRow("x", 3, 4, ())],
        [NurseryRow("x", 1, 5, ())],
        [NurseryRow(" ", 1, 4, ())],
        [NurseryRow("x", 1, 4, ("kindness",))],
    ],
)
def test_rows_that_teach_nothing_are_refused(rows: list[NurseryRow], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(rows, TINY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of"):
        NurseryConfig(d_model=30, num_heads=4)
