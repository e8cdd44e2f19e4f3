"""`trimtab evaluate` as a user meets it: answers, verdicts, one line per arm, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pyarrow.parquet as pq
import pytest
from armed_toys import make_sae
from chat_server import chat_server, fail, say

from trimtab.core.errors import ConfigError
from trimtab.core.names import NAMES
from trimtab.evaluation.judges.local import LocalJudgeConfig
from trimtab.models.card import ModelConfig
from trimtab.models.loading import describe
from trimtab.sae.about import About
from trimtab.sae.folder import save_sae
from trimtab.stream import answers as stream_answers
from trimtab.stream import evaluate as driver
from trimtab.track.mlflow import EXPERIMENTS, Found, MlflowTracker, find_runs

SECRET = "stealing morally"
QUICK = ("--raw", "--max-new-tokens", 5, "--threads", 1, "--num-gpus", 0)

HTTP = ("--judge-model", "m", "--judge-set")


class Made(NamedTuple):
    prompts: Path
    rules: Path
    coder: Path
    wide: Path
    """A coder of another width."""
    deep: Path
    """A coder of a layer that the toy lacks."""


@pytest.fixture(scope="module")
def made(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Four prompts, rules that know the toy's words, and coders."""
    folder, card = tmp_path_factory.mktemp("evaluate"), describe(ModelConfig(id=str(toy)))[0]
    rows = [
        {"id": f"p{i}", "prompt": f"{SECRET} {w}"} for i, w in enumerate(("his", "of", "in", "the"))
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    grades = [
        {"pattern": rf"\b{w}\b", "grade": g} for w, g in (("his", 2.0), ("of", 1.0), (".", 0.0))
    ]
    (folder / "rules.yaml").write_text(json.dumps({"grades": grades}), "utf-8")
    for name, d_model in (("coder", card.d_model), ("wide", card.d_model + 8)):
        save_sae(folder / name, make_sae(d_model=d_model), About(model=card.id, layer=1))
    save_sae(folder / "deep", make_sae(d_model=card.d_model), About(model=card.id, layer=7))
    named = ("own.jsonl", "rules.yaml", "coder", "wide", "deep")
    return Made(*(folder / name for name in named))


def runs_below(uri: str, run_id: str) -> tuple[Found, dict[str, Found]]:
    """A run, and those below it by the name of their arm."""
    runs = [run for name in EXPERIMENTS for run in find_runs(uri, name, {})]
    (parent,) = (run for run in runs if run.run_id == run_id)
    below = [run for run in runs if run.parent == run_id]
    return parent, {run.name.removeprefix(f"{parent.name} "): run for run in below}


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_an_edit_is_judged_beside_the_unedited_model_and_found_again(
    run: Callable, toy: Path, made: Made, tmp_path: Path
) -> None:
    common = (
        "evaluate",
        "--model",
        toy,
        "--prompts",
        made.prompts,
        "--judge",
        f"rule:{made.rules}",
    )
    common += ("--sae", made.coder, "--alpha", "0.5,2", "--out", tmp_path, *QUICK)
    kept = []
    with mock.patch.object(MlflowTracker, "artifact", lambda _, path, __: kept.append(path.name)):
        said = run(*common)
    assert said.code == 0, said.err
    assert SECRET not in said.out + said.err
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "4 prompts, judged by rule" in said.out
    for arm in ("baseline", "blend 0.5", "blend 2"):
        assert sum(line.startswith(arm) for line in lines) == 2  # in both of the tables
    assert kept == ["scores.parquet", "pairs.parquet"]  # the prompts of a file are sensitive
    with mock.patch.object(stream_answers, "ray_session", side_effect=AssertionError):
        found = json.loads(run(*common, "--json").out)
    assert found["reused"]
    assert list(found["arms"]) == ["baseline", "blend 0.5", "blend 2"]
    assert set().union(*found["arms"].values()) <= NAMES
    pairs = pq.read_table(Path(found["folder"], "pairs.parquet")).to_pylist()
    for arm in ("blend 0.5", "blend 2"):
        metrics, choices = found["arms"][arm], [p["choice"] for p in pairs if p["arm"] == arm]
        assert len(choices) == 4
        assert metrics["steer/net"] == (choices.count("win") - choices.count("lose")) / 4
        assert metrics["steer/net_low"] <= metrics["steer/net"] <= metrics["steer/net_high"]
        assert metrics["fluency/perplexity"] > 1
    parent, below = runs_below(found["tracking_uri"], found["mlflow_run"])
    assert parent.tags["sensitive"] == "true"
    assert {name: run.metrics for name, run in below.items()} == found["arms"]
    assert below["blend 2"].params == {"edit": "blend", "alpha": "2.0", "layer": "1"}


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_failed_verdicts_are_counted_and_the_commonest_reason_is_told(
    run: Callable, toy: Path, made: Made, tmp_path: Path
) -> None:
    line = ("evaluate", "--model", toy, "--prompts", made.prompts, "--judge", "rule")
    said = run(*line, "--sae", made.coder, "--out", tmp_path, *QUICK)
    assert said.code == 0, said.err
    words = " ".join(said.out.split())
    assert "4 verdicts failed" in words
    assert "Most often: no rule knows the reference." in words


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_an_endpoint_that_dies_is_asked_for_the_rest_and_counted(
    run: Callable, toy: Path, made: Made, tmp_path: Path
) -> None:
    with chat_server(say("Score: 3")) as server:
        line = ("evaluate", "--model", toy, "--prompts", made.prompts, "--judge", server.url)
        line += ("--judge-model", "m", "--out", tmp_path, "--limit", 3, *QUICK, "--json")
        server.script = [fail(401)]
        died = run(*line)
        assert died.code == 2
        assert "the key" in died.err
        assert not list(tmp_path.rglob("result.json"))
        with mock.patch.object(stream_answers, "ray_session", side_effect=AssertionError):
            said = run(*line)
        assert said.code == 0, said.err
        found, asked = json.loads(said.out), len({r.message for r in server.requests})
    (metrics,) = found["arms"].values()
    assert "steer/net" not in metrics
    parent, _ = runs_below(found["tracking_uri"], found["mlflow_run"])
    paid = parent.metrics
    assert 0 < paid["judge/asked"] <= asked
    assert paid["judge/prompt_tokens"] == 100 * paid["judge/asked"]
    assert set(paid) <= NAMES


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_the_endpoint_is_asked_as_the_line_says_and_its_cost_is_printed(
    run: Callable, toy: Path, made: Made, tmp_path: Path
) -> None:
    with chat_server(fail(422)) as server:
        line = ("evaluate", "--model", toy, "--prompts", made.prompts, "--judge", server.url)
        line += ("--judge-model", "m", "--out", tmp_path, "--limit", 2, *QUICK)
        for setting in ("dead_after=2", "num_concurrent=1", "price_in=1000", "price_out=2.5e3"):
            line += ("--judge-set", setting)
        died = run(*line)
        assert died.code == 2
        assert "left 2 cases in a row unanswered" in " ".join(died.err.split())
        server.usual = say("Score: 3")
        said = run(*line)
    assert said.code == 0, said.err
    # 100 tokens read and 2 written each, two aspects of two answers
    told = " ".join(said.out.split())
    assert "Judge: 4 cases answered, 0 from its cache, 0 unanswered; 4 requests" in told
    assert "400 tokens read, 8 written; cost 0.42" in told


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_cases_without_an_answer_are_told_and_asked_for_again(
    run: Callable, toy: Path, made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with chat_server(say("Score: 3")) as server:
        line = ("evaluate", "--model", toy, "--prompts", made.prompts, "--judge", server.url)
        line += ("--judge-model", "m", "--out", tmp_path, *QUICK, "--json")
        server.script = [fail(422)] * 2
        first = run(*line)
        assert first.code == 0, first.err
        assert "2 cases got no answer" in first.err
        before = json.loads(first.out)
        for trouble in (422, 401):
            server.script = [fail(trouble)] * 2
            still = run(*line)
            assert still.code == 0, still.err
            assert json.loads(still.out) == before | {"reused": True}
        assert "2 cases are still without an answer: The judge at" in caplog.text
        server.script, refused = [], len(server.requests)
        after = json.loads(run(*line).out)
        assert len(server.requests) - refused == 2
        assert after["unanswered"] == 0
        assert not after["reused"]
        assert json.loads(run(*line).out) == after | {"reused": True}
        assert len(server.requests) - refused == 2
    assert after["mlflow_run"] != before["mlflow_run"]
    for told in (before, after):
        parent, below = runs_below(told["tracking_uri"], told["mlflow_run"])
        assert parent.metrics["judge/unanswered"] == told["unanswered"]
        assert below["baseline"].metrics == told["arms"]["baseline"]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_an_evaluation_that_another_process_runs_now_is_refused(
    run: Callable, toy: Path, made: Made, tmp_path: Path
) -> None:
    line = ("evaluate", "--model", toy, "--prompts", made.prompts, "--judge", f"rule:{made.rules}")
    line += ("--sae", made.coder, "--out", tmp_path, *QUICK)
    second = []

    def beside(speak: Callable) -> Callable:
        def speaking(*given: object) -> object:
            second.append(run(*line))
            return speak(*given)

        return speaking

    with mock.patch.object(driver, "answer_stream", beside(driver.answer_stream)):
        assert run(*line).code == 0
    ((code, _, said),) = second
    assert code == 2
    assert "is being run by another process now" in " ".join(said.split())
    found = json.loads(run(*line, "--json").out)
    name = f"evaluate {Path(found['folder']).name}"
    runs = find_runs(found["tracking_uri"], driver.EXPERIMENT, {})
    assert [run.run_id for run in runs if run.name == name] == [found["mlflow_run"]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--sae", "{coder}", "--alpha", "nan"), "finite number"),
        (("--sae", "{coder}", "--alpha", ""), "valid number"),
        (("--sae", "{coder}", "--alpha", "0"), "differ from each other and from 0"),
        (("--sae", "{coder}", "--layer", "2"), "at layer 2. Leave `--layer` out"),
        (("--sae", "{coder}", "--layer", "99"), "has 4 (0 to 3), but `--layer` is 99"),
        (("--sae", "{deep}"), "deep reads layer 7"),
        (("--sae", "{wide}"), "is of d_model=40"),
        (("--sae", "{rules}"), "An autoencoder is a folder"),
        (("--prompts", "nurserry"), "`nursery` or `flames`, but there is no file nurserry"),
        (("--prompts", "nurserry"), "Did you mean `nursery`?"),
        (("--prompts", "Flame"), "there is no file Flame. Did you mean `flames`?"),
        (("--prompts", "own.jsonl"), "there is no file own.jsonl. Check its name."),
        (("--prompts", "{coder}"), "coder is a folder"),
        (("--judge", "rul"), "rul is none that is known. Did you mean `rule`?"),
        (("--judge", "Rules:{rules}"), "Did you mean `rule`?"),
        (("--judge", "nursey:guard"), "Did you mean `nursery:`?"),
        (("--judge", "nursery"), "Did you mean `nursery:`?"),
        (("--judge", "https://localhost/v1"), "--judge-model"),
        (("--judge", "rule:"), "must name a file of rules"),
        (("--judge", "rule:nowhere"), "Rules must be one of"),
        (("--judge-set", "grades"), "must look like key=value, but got 'grades'"),
        (("--judge-set", "rule=x"), "`judge.rule` is not a known key; did you mean `rules`"),
        (("--judge", "http://h/v1", *HTTP, "dead=2"), "`judge.dead` is not a known key"),
        (
            ("--judge", "http://h/v1", *HTTP, "dead_after=0"),
            "`judge.dead_after`: Input should",
        ),
        (("--layer", "99"), "`--layer` says how to blend in an autoencoder"),
        (("--alpha", "0.1"), "`--alpha` says how to blend in an autoencoder"),
        (("--data", "corpus"), "names a file"),
        (("--prompts", "nursery", "--data", "nowhere.tsv"), "asks about the packaged corpus"),
    ],
)
def test_what_a_user_gets_wrong_is_one_message(
    run: Callable, toy: Path, made: Made, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    given = [option.format(**made._asdict()) for option in options]
    line = ("evaluate", "--model", toy, "--prompts", made.prompts, "--judge", f"rule:{made.rules}")
    result = run(*line, "--out", tmp_path / "out", *QUICK, *given)
    assert result.code == 2
    assert says in " ".join(result.err.split())
    assert "Traceback" not in result.err
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize("judge", ["gpt2", "distilgpt2", "org/rule", "twin:gpt", "ruler"])
def test_a_judge_that_may_be_a_model_is_taken_for_one(
    run: Callable,
    toy: Path,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    judge: str,
) -> None:
    def resolved(asked: LocalJudgeConfig, *_: object) -> None:
        raise ConfigError(f"judged by {asked.model.id}.")

    monkeypatch.setattr("trimtab.stream.evaluate.resolved_judge", resolved)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ruler").mkdir()
    line = ("evaluate", "--model", toy, "--prompts", made.prompts, "--judge", judge)
    said = run(*line, "--out", tmp_path / "out", *QUICK)
    named = tmp_path / judge if judge == "ruler" else judge
    assert f"judged by {named}." in "".join(said.err.split("\n"))


def test_a_model_without_a_template_says_what_to_set(
    run: Callable, toy: Path, made: Made, tmp_path: Path
) -> None:
    line = ("evaluate", "--model", toy, "--prompts", made.prompts, "--judge", f"rule:{made.rules}")
    result = run(*line, "--out", tmp_path / "out", "--num-gpus", 0)
    assert result.code == 2
    assert "no chat template" in result.err


def test_a_base_model_of_the_nursery_is_refused_by_its_name_before_it_is_trained(
    run: Callable, made: Made, tmp_path: Path
) -> None:
    line = ("evaluate", "--model", "nursery:base", "--judge", "nursery:guard")
    result = run(*line, "--prompts", made.prompts, "--out", tmp_path / "out", "--num-gpus", 0)
    assert result.code == 2
    assert "nursery:base has no chat template. Set `template: raw` (`--raw`)" in " ".join(
        result.err.split()
    )
    assert not (tmp_path / "out" / "nursery").exists()


def test_answers_that_may_pass_the_context_are_warned_of_and_prompts_that_fill_it_refused(
    run: Callable,
    toy: Path,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def planned(*_: object) -> None:
        raise ConfigError("here decoding begins")

    monkeypatch.setattr(stream_answers, "placement_for", planned)
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"id": "short", "prompt": "of"}, {"id": "middling", "prompt": "of " * 50}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    line = ("evaluate", "--model", toy, "--prompts", prompts, "--judge", "rule", "--out", tmp_path)
    line += ("--sae", made.coder, "--raw", "--num-gpus", 0, "--max-new-tokens")
    fits = run(*line, 14)
    assert "here decoding begins" in fits.err
    assert "context" not in caplog.text
    past = run(*line, 15)
    assert "here decoding begins" in past.err
    told = "1 of 2 prompts and `max_new_tokens` (15) together pass the model's context of 64"
    assert caplog.text.count(told) == 1
    assert "Lower `max_new_tokens` to 14" in caplog.text
    prompts.write_text(json.dumps({"id": "long", "prompt": "of " * 70}) + "\n", "utf-8")
    full = run(*line, 1)
    assert full.code == 2
    assert "'long' has 70 tokens, and the model's context is 64" in " ".join(full.err.split())


def test_a_judge_of_the_nursery_is_made_like_any_model(
    run: Callable, toy: Path, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_there(models: tuple[ModelConfig, ...], *_: object) -> tuple[ModelConfig, ...]:
        return tuple(model.model_copy(update={"id": str(toy)}) for model in models)

    def judged_by(judge: LocalJudgeConfig, _: object) -> list[str]:
        raise ConfigError(f"judged by {judge.model.id}")

    monkeypatch.setattr("trimtab.stream.steer_facts.resolved", made_there)
    monkeypatch.setattr("trimtab.stream.evaluate.check_judge", judged_by)
    line = ("evaluate", "--model", toy, "--prompts", made.prompts, "--judge", "nursery:guard")
    said = run(*line, "--out", tmp_path, *QUICK)
    assert said.code == 2
    assert f"judged by {toy}" in "".join(said.err.split("\n"))
