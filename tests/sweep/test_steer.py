"""Steering swept: what a trial tells, keeps and never shows; and what is refused before it starts."""

import json
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from armed_toys import D_MODEL, make_sae
from chat_server import ChatServer, chat_server, fail, say
from toys import save_toy

from trimtab.core.arms import ARM_KINDS
from trimtab.core.config import build, load_job
from trimtab.core.errors import CoderError, ConfigError, DataError, JudgeError, ModelError
from trimtab.core.names import NAMES
from trimtab.evaluation.decoding import DecodingConfig
from trimtab.models.card import ModelConfig
from trimtab.models.nursery_text import ANSWERS, QUESTIONS
from trimtab.models.registry import REGISTRY, KnownModel
from trimtab.models.twin_shapes import SHAPES
from trimtab.report.steer import cells
from trimtab.sae.about import About
from trimtab.sae.coder import Sae
from trimtab.sae.folder import save_sae
from trimtab.scenarios.corpus import corpus_path
from trimtab.stream.evaluate_config import EvaluateJob
from trimtab.stream.nursery import rows_of
from trimtab.stream.scenarios import read
from trimtab.stream.steer import Layer
from trimtab.stream.steer_arms import arm_name
from trimtab.stream.steer_coders import check_coder
from trimtab.stream.steer_config import SteerConfig
from trimtab.stream.steer_facts import weights_of
from trimtab.stream.steer_prompts import prompt_set
from trimtab.sweep.plan import plan_sweep
from trimtab.sweep.run import Outcome, sweep
from trimtab.sweep.space import check_objective, known_points, trial_record
from trimtab.sweep.spec import SweepConfig
from trimtab.sweep.studies.steer import CHOSEN, HELD_OUT, STUDY, SteerRunning
from trimtab.sweep.study import Prepared, Report, Study
from trimtab.sweep.trial import Work, work_on
from trimtab.track.mlflow import find_runs

SWEEPS = Path(__file__).parents[2] / "sweeps"
SECRET = "stealing morally"
CPU = torch.device("cpu")
Configure = Callable[..., SteerConfig]


def aligned_of(sae: Sae) -> Sae:
    changed = make_sae("topk", seed=3)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec"):
            weight = getattr(changed, name)
            kept = getattr(sae, name).clone()
            kept[:3] = weight[:3]
            weight.copy_(kept)
        changed.center.copy_(sae.center)
        changed.b_dec.copy_(sae.b_dec)
    return changed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy, its coders at two layers, prompts, and rules that know its words."""
    folder = tmp_path_factory.mktemp("steer")
    save_toy(folder / "toy")
    for layer in (1, 2):
        sae = make_sae("topk", seed=layer)
        about = About(model=str(folder / "toy"), layer=layer)
        save_sae(folder / f"plain-{layer}", sae, about)
        save_sae(folder / f"aligned-{layer}-x7", aligned_of(sae), about)
    words = ("giving a", "his of", "the to your", "in from for", "and at on", "with who", "by her")
    prompts = [{"id": f"p{i}", "prompt": f"{SECRET} {w}"} for i, w in enumerate(words)]
    lines = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    (folder / "prompts.jsonl").write_text(lines, "utf-8")
    grades = "\n".join(
        f"  - {{pattern: '\\b{word}\\b', grade: {grade}}}"
        for word, grade in (("his", 3), ("of", 2), ("from", 1), ("giving", -1), ("the", -2))
    )
    (folder / "rules.yaml").write_text(
        f"grades:\n{grades}\n  - {{pattern: '.', grade: 0}}\n", "utf-8"
    )
    return folder


@pytest.fixture
def configure(made: Path) -> Configure:
    """A trial at layer 1; fields given replace its own."""

    def build_one(**fields: Any) -> SteerConfig:  # noqa: ANN401 (any field)
        tree = {
            "model": {"id": str(made / "toy")},
            "prompts": {"kind": "jsonl", "path": made / "prompts.jsonl"},
            "coders": {
                "kind": "folders",
                "aligned": str(made / "aligned-{layer}-*"),
                "unaligned": str(made / "plain-{layer}"),
            },
            "layer": 1,
            "alphas": [0.5, 2.0],
            "arms": list(ARM_KINDS),
            "decoding": {"template": "raw", "max_new_tokens": 6},
            "judge": {"kind": "rule", "rules": str(made / "rules.yaml")},
            "evaluation": {"aspects": [], "num_draws": 200},
            "rungs": [2, 6],
        }
        return build(SteerConfig, tree | fields, where="a test")

    return build_one


def silent(*_: object) -> None:
    pass


def running(config: SteerConfig, out: Path) -> SteerRunning:
    return STUDY.start(config, STUDY.prepare(config, out, silent), CPU)


def test_a_study_is_what_the_sweep_asks_for() -> None:
    assert isinstance(STUDY, Study)


def test_a_layer_tells_every_arm_after_every_rung(configure: Configure, tmp_path: Path) -> None:
    config = configure()
    first, second = list(running(config, tmp_path).reports())
    assert (first.share, second.share) == (2 / 6, 1.0)
    arms = STUDY.runs(config)
    assert len(arms) == 1 + 7 * 2
    assert arms["delta 0.5"] == {"edit": "delta", "alpha": 0.5, "layer": 1}
    for report in (first, second):
        assert set(report.metrics) == set(arms)
        assert STUDY.curve <= set(report.scores)
        for told in report.metrics.values():
            assert {metric.name for metric in told} <= NAMES
            assert all(math.isfinite(metric.value) for metric in told)
            assert {metric.step for metric in told} == {round(report.share * 6)}
    last = {metric.name: metric.value for metric in second.metrics["aligned 2"]}
    assert last["evaluation/wins/all"] + last["evaluation/ties/all"] + last[
        "evaluation/losses/all"
    ] == (6.0)
    assert last["fluency/perplexity"] > 1
    assert last["steer/strength"] > 0
    base = {metric.name for metric in second.metrics["baseline"]}
    assert "fluency/perplexity" in base
    assert "steer/net" not in base


def test_directions_from_vices_to_virtues_are_those_of_a_plain_computation(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure(arms=["aligned", "latent_direction", "difference_of_means"])
    layer = running(config, tmp_path)._layer
    table = read(config.data, tmp_path).table.filter(pl.col("split") == "train")
    means, active = [], []
    aligned = layer._materials.coders["aligned"].sae
    for polarity in (1, -1):
        of = table.filter(pl.col("polarity") == polarity).sort(
            "typicality", descending=True, maintain_order=True
        )
        rows = []
        for action in dict.fromkeys(of["action"]):
            ids = layer.loaded.tokenizer(f"{action} is morally", return_tensors="pt").input_ids
            with torch.inference_mode():
                states = layer.loaded.model(ids, output_hidden_states=True).hidden_states
            rows.append(states[config.layer + 1][0].mean(0))
            if len(rows) == 256:
                break
        means.append(torch.stack(rows).mean(0))
        active.append(torch.stack([aligned.encode(row) for row in rows]).mean(0))
    found = layer._materials.directions
    torch.testing.assert_close(
        found["difference_of_means"], means[0] - means[1], rtol=1e-4, atol=1e-5
    )
    differs = active[0] - active[1]
    expected = differs[differs.abs().argmax()] * aligned.W_dec[differs.abs().argmax()]
    torch.testing.assert_close(found["latent_direction"], expected, rtol=1e-3, atol=1e-5)


def test_the_half_that_scores_is_told_at_the_end_alone(
    configure: Configure, tmp_path: Path
) -> None:
    trial = running(configure(), tmp_path)
    for report in trial.reports():
        assert not any("held_out" in name for name in report.scores)
    folder = tmp_path / "artifacts"
    folder.mkdir()
    last = trial.finish(folder)
    assert STUDY.final <= set(last.scores)
    assert last.scores["steer/chosen/prompts"] == last.scores["steer/held_out/prompts"] == 3
    assert last.scores["steer/held_out/net_low"] <= last.scores[HELD_OUT]
    assert last.scores["steer/best_alpha"] in (0.5, 2.0)
    assert "held_out_net@unaligned 0.5" in last.scores


def test_the_best_strength_is_the_best_on_the_half_that_chooses(
    configure: Configure, tmp_path: Path
) -> None:
    trial = running(configure(), tmp_path)
    *_, last = trial.reports()
    layer = trial._layer
    nets = {}
    for alpha in (0.5, 2.0):
        rows = [r for r in layer.given.judged.pairs if r.arm == f"aligned {alpha:g}"]
        chosen = [r.choice for r in rows if r.prompt_id in layer.choosing]
        nets[alpha] = (chosen.count("win") - chosen.count("lose")) / len(chosen)
    assert last.scores[CHOSEN] == pytest.approx(max(nets.values()))
    assert nets[last.scores["steer/best_alpha"]] == max(nets.values())


def test_sensitive_texts_stay_in_the_local_folder(configure: Configure, tmp_path: Path) -> None:
    trial = running(configure(), tmp_path / "runs")
    list(trial.reports())
    folder = tmp_path / "artifacts"
    folder.mkdir()
    trial.finish(folder)
    assert {path.name for path in folder.iterdir()} == {
        "arms.parquet",
        "pairs.parquet",
        "scores.parquet",
    }
    assert not any(SECRET.encode() in path.read_bytes() for path in folder.iterdir())
    for path in folder.iterdir():
        table = pl.read_parquet(path)
        assert not any(SECRET in str(row) for row in table.iter_rows())
    (local,) = (tmp_path / "runs").glob("answers/*/layer-01/tables/*/side_by_side.parquet")
    rows = pl.read_parquet(local)
    assert SECRET in rows["prompt"][0]
    assert len(rows) == 6 * 14
    lines = (local.parent / "largest.jsonl").read_text("utf-8").splitlines()
    largest = [json.loads(line) for line in lines]
    assert {row["choice"] for row in largest} <= {"win", "lose"}


def test_texts_are_shared_where_the_user_says_so(configure: Configure, tmp_path: Path) -> None:
    told = {"kind": "jsonl", "path": configure().prompts.path, "sensitive": False}
    for fields in (
        {"prompts": told},
        {"evaluation": {"aspects": [], "num_draws": 200, "log_text": True}},
    ):
        assert not configure(**fields).is_sensitive
    trial = running(configure(prompts=told), tmp_path / "runs")
    list(trial.reports())
    folder = tmp_path / "artifacts"
    folder.mkdir()
    trial.finish(folder)
    assert {"texts.parquet", "side_by_side.parquet", "largest.jsonl"} <= {
        path.name for path in folder.iterdir()
    }


def told(work: Work, stop_after: int | None = None) -> list[Report]:
    heard: list[Report] = []

    def tell(report: Report, last: bool, state: Path | None) -> None:
        heard.append(report)
        if stop_after is not None and len(heard) == stop_after:
            raise KeyboardInterrupt

    work_on(work, "0000", {}, None, tell)
    return heard


def work_of(config: SteerConfig, prepared: Prepared, folder: Path) -> Work:
    return Work(
        study="steer",
        base=config.model_dump(mode="json"),
        prepared=prepared,
        objective=CHOSEN,
        folder=folder,
        save_seconds=0.0,
        num_threads=1,
        num_gpus=0.0,
    )


def test_a_trial_that_is_killed_goes_on_to_the_same_reports(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure()
    ready = [STUDY.prepare(config, tmp_path / name, silent) for name in ("whole", "cut")]
    whole = told(work_of(config, ready[0], tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        told(work_of(config, ready[1], tmp_path / "cut"), stop_after=1)
    again = told(work_of(config, ready[1], tmp_path / "cut"))
    assert again == whole


def test_answers_that_are_there_are_not_made_again(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    first = list(running(config, tmp_path).reports())
    trial = running(config, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("trimtab.evaluation.answers.generate", never)
    assert list(trial.reports()) == first


def test_an_endpoint_that_dies_half_way_is_asked_for_the_rest_only(
    configure: Configure, tmp_path: Path
) -> None:
    with chat_server(say("A")) as server:
        config = configure(judge=http(server, tmp_path), rungs=[2])
        trial = running(config, tmp_path)
        server.script = [say("A")] * 9 + [fail(500)] * 500
        with pytest.raises(JudgeError, match="run the same command again"):
            list(trial.reports())
        server.script = []
        before = len(server.requests)
        (report,) = running(config, tmp_path).reports()
        asked = len(server.requests) - before
    assert report.share == 1.0
    assert 0 < asked <= 2 * 2 * 14 - 9


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_cases_without_an_answer_are_asked_for_by_the_same_sweep_and_nonsense_is_not(
    configure: Configure, tmp_path: Path
) -> None:
    def run() -> Outcome:
        return sweep(config, plan_sweep(config, config.out))

    with chat_server(say("A")) as server:
        trial = configure(judge=http(server, tmp_path), arms=["aligned"], alphas=[0.5], rungs=[6])
        tree = {
            "job": "sweep",
            "asks": "Which layer?",
            "study": "steer",
            "base": trial.model_dump(mode="json"),
            "space": {"layer": {"grid": [1]}},
            "objective": {"metric": CHOSEN, "mode": "max"},
            "budget": {"searcher": "grid", "retries": 0},
            "out": tmp_path,
        }
        config = build(SweepConfig, tree, where="a test")
        server.script = [say("A"), fail(500), say("I like turtles."), fail(500)]
        first = run()
        assert first.closing is not None
        assert "2 cases got no answer" in first.closing.says
        server.script = [fail(401)]
        assert run().rows == first.rows
        server.script = []
        before = len(server.requests)
        after = run()
        assert len(server.requests) - before == 2
        assert run().reused
        assert len(server.requests) - before == 2
    (row,) = after.rows
    assert (row["judge/unanswered"], first.rows[0]["judge/unanswered"]) == (0.0, 2.0)
    assert (row["failed@aligned 0.5"], first.rows[0]["failed@aligned 0.5"]) == (1.0, 3.0)
    assert after.closing is not None
    assert "no answer" not in after.closing.says
    digest = after.folder.name.rpartition("-")[2]
    runs = find_runs(after.tracking_uri, "trimtab/steer", {"sweep": digest})
    by_name = {run.tags.get("part", "parent"): run for run in runs}
    assert len(runs) == len(by_name) == 3
    assert {run.status for run in runs} == {"FINISHED"}
    assert by_name["aligned 0.5"].metrics["evaluation/failed/all"] == 1.0
    paid = by_name["baseline"].metrics
    assert (paid["judge/unanswered"], paid["judge/cached"]) == (0.0, 10.0)
    assert (paid["judge/asked"], paid["judge/attempts"]) == (12.0, 14.0)
    assert paid["judge/prompt_tokens"] == 1200.0


def test_a_judge_that_answers_nonsense_fails_and_never_ties(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with chat_server(say("I would rather talk about the weather.")) as server:
        trial = running(configure(judge=http(server, tmp_path), rungs=[2]), tmp_path)
        caplog.set_level(logging.ERROR)
        with pytest.raises(JudgeError, match=r"'tie': 0, 'lose': 0, 'failed': 28"):
            list(trial.reports())


def http(server: ChatServer, tmp_path: Path) -> dict[str, Any]:
    return {
        "kind": "http",
        "url": server.url,
        "model": "judge",
        "cache": tmp_path / "judged",
        "num_attempts": 1,
        "backoff": 0.0,
        "num_concurrent": 1,
        "dead_after": 3,
    }


def refused(config: SteerConfig, out: Path) -> None:
    """Everything that is looked at before the first trial."""
    facts = STUDY.survey(config, out)
    STUDY.check(config, facts)


def test_a_sound_trial_is_not_refused_and_its_cost_is_said(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure()
    refused(config, tmp_path)
    cost = STUDY.estimate(config, STUDY.survey(config, tmp_path))
    assert cost.seconds > 0
    assert cost.memory > 0
    packed = config.model.model_copy(update={"precision": "nf4"})
    in_four_bits = config.model_copy(update={"model": packed})
    assert STUDY.estimate(in_four_bits, STUDY.survey(config, tmp_path)).memory < cost.memory


def test_a_layer_that_the_model_lacks_is_refused(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"layer=4, num_layers=4.*the last one is 3"):
        refused(configure(layer=4), tmp_path)


def test_a_coder_of_another_width_model_or_layer_is_refused_with_both_named(
    configure: Configure, made: Path, tmp_path: Path
) -> None:
    def with_coder(about: About, d_model: int = D_MODEL) -> SteerConfig:
        save_sae(tmp_path / "coder-1", make_sae(d_model=d_model), about)
        coders = {"kind": "folders", "aligned": str(tmp_path / "coder-{layer}")}
        return configure(coders=coders, arms=["aligned"])

    toy = str(made / "toy")
    refused(with_coder(About(model=toy, layer=1)), tmp_path)
    with pytest.raises(CoderError, match=rf"d_model=24 \(model org/other\).*{toy} has d_model=32"):
        refused(with_coder(About(model="org/other", layer=1), d_model=24), tmp_path)
    with pytest.raises(CoderError, match=rf"the model org/other, but {toy} is to be steered"):
        refused(with_coder(About(model="org/other", layer=1)), tmp_path)
    with pytest.raises(CoderError, match="at layer 3, but is to be put at layer 1"):
        refused(with_coder(About(model=toy, layer=3)), tmp_path)


@pytest.mark.parametrize(
    ("trained_on", "model", "fits"),
    [
        ("/runs/nursery/455a/instruct", "nursery:instruct", True),
        ("nursery:instruct", "/runs/nursery/455a/instruct", True),
        ("/runs/nursery/455a/instruct", "/moved/nursery/455a/instruct", True),
        ("/runs/nursery/455a/instruct", "/runs/nursery/e19b/instruct", False),
        ("/runs/nursery/455a/base", "nursery:instruct", False),
        ("/models/instruct", "nursery:instruct", False),
        ("Qwen/Qwen3-8B", "nursery:instruct", False),
        ("Qwen/Qwen3-8B", "/models/Qwen3-8B/", True),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-4B", False),
    ],
)
def test_a_coder_fits_the_model_that_it_was_trained_on(
    tmp_path: Path, trained_on: str, model: str, fits: bool
) -> None:
    save_sae(tmp_path / "coder", make_sae(), About(model=trained_on, layer=1))
    with nullcontext() if fits else pytest.raises(CoderError, match="was trained on the model"):
        check_coder(tmp_path / "coder", 1, D_MODEL, model)


@pytest.mark.parametrize("known", REGISTRY.values(), ids=lambda known: known.id)
def test_a_coder_of_a_model_does_not_fit_its_twin(known: KnownModel) -> None:
    assert SHAPES[known.family].d_model < known.shape.d_model


def test_a_coder_of_a_model_is_refused_on_its_twin_with_both_named(tmp_path: Path) -> None:
    save_sae(tmp_path / "coder", make_sae(d_model=64), About(model="Qwen/Qwen3-8B", layer=1))
    with pytest.raises(CoderError, match=r"\(model Qwen/Qwen3-8B\), but twin:Qwen/Qwen3-8B has"):
        check_coder(tmp_path / "coder", 1, D_MODEL, "twin:Qwen/Qwen3-8B")


def test_a_trial_refuses_a_coder_of_another_training_of_its_model(
    configure: Configure, tmp_path: Path
) -> None:
    model = save_toy(tmp_path / "nursery" / "455a" / "instruct")
    other = str(tmp_path / "nursery" / "e19b" / "instruct")
    save_sae(tmp_path / "coder-1", make_sae(), About(model=other, layer=1))
    coders = {"kind": "folders", "aligned": str(tmp_path / "coder-{layer}")}
    config = configure(model={"id": str(model)}, coders=coders, arms=["aligned"])
    with pytest.raises(CoderError, match=r"e19b/instruct, but .*455a/instruct is to"):
        running(config, tmp_path)


def test_a_coder_that_is_not_there_or_is_several_is_refused(
    configure: Configure, made: Path, tmp_path: Path
) -> None:
    def aligned(pattern: str) -> SteerConfig:
        return configure(coders={"kind": "folders", "aligned": pattern}, arms=["aligned"])

    with pytest.raises(CoderError, match=r"no cfg\.json"):
        refused(aligned(str(made / "nowhere-{layer}")), tmp_path)
    with pytest.raises(CoderError, match="but 2 do"):
        refused(aligned(str(made / "*-{layer}*")), tmp_path)
    with pytest.raises(ConfigError, match="in the place of the layer's number"):
        aligned(str(made / "plain-1"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alphas": [math.nan]}, "finite number"),
        ({"alphas": [0.1, math.inf]}, "finite number"),
        ({"alphas": []}, "at least 1 item"),
        ({"alphas": [0.0]}, "differ from each other and from 0"),
        ({"alphas": [0.1, 0.1]}, "differ from each other and from 0"),
        ({"layer": -1}, "greater than or equal to 0"),
        ({"rungs": [4, 2]}, "must ascend"),
        ({"rungs": [1]}, "one prompt for each half"),
        ({"arms": ["unaligned"]}, "must have `aligned`"),
        ({"coders": {"kind": "folders", "aligned": "x-{layer}"}}, "need `coders.unaligned`"),
        ({"evaluation": {"pairwise": None}}, "must compare each arm with `baseline`"),
        ({"strength": 1}, "not a known key"),
    ],
)
def test_a_trial_that_cannot_be_is_refused_by_its_record(
    configure: Configure, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(**fields)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a"}', "must have `prompt`"),
        ('{"id": "a", "prompt": " "}', "`prompt` must not be empty"),
        ("not json", "must be one JSON object"),
    ],
)
def test_a_prompt_file_that_is_none_is_refused_before_anything_is_loaded(
    configure: Configure, tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n", "utf-8")
    with pytest.raises(DataError, match=message):
        refused(configure(prompts={"kind": "jsonl", "path": path}), tmp_path)


def test_more_prompts_than_there_are_is_refused(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the last one is 8 and prompts has 7"):
        refused(configure(rungs=[8]), tmp_path)


def test_a_model_without_a_chat_template_says_which_option_to_set(
    configure: Configure, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="template: raw"):
        refused(configure(decoding={"max_new_tokens": 6}), tmp_path)
    bare = configure(model={"id": "nursery:base"}, decoding={}, prompts={"kind": "nursery"})
    with pytest.raises(ModelError, match="template: raw"):
        refused(bare, tmp_path)


def test_a_prompt_that_fills_the_context_is_refused_and_long_answers_are_warned_of(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    STUDY.prepare(configure(decoding={"template": "raw", "max_new_tokens": 59}), tmp_path, silent)
    assert "context" not in caplog.text
    STUDY.prepare(configure(decoding={"template": "raw", "max_new_tokens": 62}), tmp_path, silent)
    assert caplog.text.count("together pass the model's context of 64") == 1
    path = tmp_path / "prompts.jsonl"
    rows = ({"id": f"p{i}", "prompt": "of " * (60 + i)} for i in range(6))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    config = configure(prompts={"kind": "jsonl", "path": path})
    for look in (refused, lambda *given: STUDY.prepare(*given, silent)):
        with pytest.raises(DataError, match=r"'p[45]' has 6[45] tokens, and the model's context"):
            look(config, tmp_path)


def test_a_judge_without_its_key_is_refused(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    judge = {"kind": "http", "url": "http://127.0.0.1:9/v1", "model": "j", "cache": tmp_path}
    with pytest.raises(JudgeError, match="JUDGE_KEY"):
        refused(configure(judge=judge | {"api_key_env": "JUDGE_KEY"}), tmp_path)


def test_a_trial_finds_the_drivers_cache_of_replies_wherever_it_begins(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with chat_server(say("A")) as server:
        judge = http(server, tmp_path) | {"cache": "judged"}
        ready = STUDY.prepare(configure(judge=judge), tmp_path, silent).payload
    assert ready.judge.cache == tmp_path / "judged"


def test_a_judge_of_the_nursery_is_made_before_the_trials(
    configure: Configure, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_there(models: tuple[ModelConfig, ...], *_: object) -> tuple[ModelConfig, ...]:
        return tuple(model.model_copy(update={"id": str(made / "toy")}) for model in models)

    config = configure(judge={"kind": "local", "model": {"id": "nursery:guard"}})
    refused(config, tmp_path)
    monkeypatch.setattr("trimtab.stream.steer_facts.resolved", made_there)
    ready = STUDY.prepare(config, tmp_path, silent).payload
    assert ready.judge.model.id == str(made / "toy")
    assert Layer(config, ready, CPU)._judge.identity()["kind"] == "local"


def test_a_judge_whose_template_refuses_a_question_is_refused_before_anything_is_answered(
    configure: Configure, tmp_path: Path
) -> None:
    folder = save_toy(tmp_path / "judge")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('roles') }}", "utf-8")
    config = configure(judge={"kind": "local", "model": {"id": str(folder)}})
    with pytest.raises(ModelError, match=r"refuses a lone question: roles\..*another judge model"):
        refused(config, tmp_path)


def test_prompts_alternate_between_the_halves_and_their_order_is_the_seeds(
    configure: Configure, tmp_path: Path
) -> None:
    one, again = (STUDY.survey(configure(), tmp_path).prompts for _ in range(2))
    other = STUDY.survey(configure(seed=1), tmp_path).prompts
    assert one.questions == again.questions
    assert one.choosing.tolist() == [True, False] * 3
    assert [q.id for q in other.questions] != [q.id for q in one.questions]
    assert one.digest == again.digest != other.digest


@pytest.mark.parametrize("name", ["steer-demo", "steer-qwen3-8b"])
def test_every_point_of_the_sweeps_here_is_a_trial(name: str, tmp_path: Path) -> None:
    config = load_job(SWEEPS / f"{name}.yaml", SweepConfig)
    check_objective(config, STUDY)
    points = known_points(config) or []
    trials = [trial_record(SteerConfig, config.base, point) for point in points]
    num_layers = weights_of(trials[0], tmp_path).num_layers
    assert {trial.layer for trial in trials} <= set(range(num_layers))
    if name == "steer-demo":
        facts = STUDY.survey(trials[0], tmp_path)
        for trial in trials:
            STUDY.check(trial, facts)
        with pytest.raises(ConfigError, match="layer 5 is not among"):
            STUDY.check(trials[0].model_copy(update={"layer": 5}), facts)
        assert all(q.reference for q in facts.prompts.questions)
    else:
        assert len(trials) == num_layers == 36
        assert trials[0].is_sensitive
        assert trials[0].decoding == DecodingConfig.flames()


def test_nursery_questions_are_about_actions_that_nothing_was_trained_on(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure(prompts={"kind": "nursery"}, data={"fractions": [0.5, 0.25]})
    found = prompt_set(config, tmp_path)
    seen = {row.action for row in rows_of("train", config.data, tmp_path)}
    assert found.available > 200
    for question in found.questions:
        assert question.prompt.removeprefix(f"{QUESTIONS[0]} ") not in seen
        assert question.reference in ANSWERS.values()
    assert found.source == "corpus"


@pytest.mark.parametrize("kind", [SteerConfig, EvaluateJob])
def test_nursery_questions_beside_other_scenarios_are_refused(
    configure: Configure, kind: type[SteerConfig | EvaluateJob]
) -> None:
    tree = configure().model_dump(mode="json", include=set(kind.model_fields))
    asked = {"prompts": {"kind": "nursery"}, "data": {"path": "own.tsv"}, "evaluation": {}}
    with pytest.raises(ConfigError, match=r"`data.path` must be `corpus`, but is own\.tsv"):
        build(kind, tree | asked, where="a test")


def test_another_coder_in_the_same_folder_is_another_sweep(
    configure: Configure, tmp_path: Path
) -> None:
    save_sae(tmp_path / "coder-1", make_sae(), About(layer=1))
    coders = {"kind": "folders", "aligned": str(tmp_path / "coder-{layer}")}
    config = configure(coders=coders, arms=["aligned"])
    first, again = (STUDY.prepare(config, tmp_path, silent).identity for _ in range(2))
    save_sae(tmp_path / "coder-1", make_sae(seed=8), About(layer=1))
    assert first == again != STUDY.prepare(config, tmp_path, silent).identity


def test_directions_need_both_virtues_and_vices(configure: Configure, tmp_path: Path) -> None:
    corpus = pl.read_csv(corpus_path(), separator="\t", infer_schema=False)
    path = tmp_path / "virtues.tsv"
    corpus.filter(pl.col("action-moral-judgment") >= "0").write_csv(path, separator="\t")
    config = configure(data={"path": str(path), "fractions": [0.5, 0.25]})
    with pytest.raises(DataError, match=r"no training action of .*virtues.tsv is a vice"):
        running(config, tmp_path)


def test_other_rules_or_scenarios_are_another_sweep(
    configure: Configure, tmp_path: Path, made: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text((made / "rules.yaml").read_text("utf-8"), "utf-8")
    data = tmp_path / "rows.tsv"
    corpus = corpus_path().read_text("utf-8")
    data.write_text(corpus, "utf-8")
    config = configure(
        judge={"kind": "rule", "rules": str(rules)},
        data={"path": str(data), "fractions": [0.5, 0.25]},
        arms=["aligned", "difference_of_means"],
    )
    first, again = (STUDY.prepare(config, tmp_path, silent).identity for _ in range(2))
    rules.write_text(rules.read_text("utf-8").replace("grade: 3", "grade: 2"), "utf-8")
    judged = STUDY.prepare(config, tmp_path, silent).identity
    data.write_text("".join(corpus.splitlines(keepends=True)[:-1]), "utf-8")
    fewer = STUDY.prepare(config, tmp_path, silent).identity
    assert first == again
    assert len({first, judged, fewer}) == 3


def test_another_judges_tables_stand_beside_the_first(configure: Configure, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for draws in (200, 201):
        trial = running(configure(evaluation={"aspects": [], "num_draws": draws}), tmp_path)
        list(trial.reports())
        trial.finish(folder)
    assert len(list(tmp_path.glob("answers/*/layer-01/tables/*/side_by_side.parquet"))) == 2


def test_a_strength_is_read_back_from_its_arms_name() -> None:
    names = {alpha: arm_name("aligned", alpha) for alpha in (0.1, 2.0, 1 / 3, 0.1 + 0.2)}
    assert names[0.1] == "aligned 0.1"
    assert names[2.0] == "aligned 2"
    trial = {"share": 1.0, "steer/best_layer": 1.0} | {f"net@{n}": 0.0 for n in names.values()}
    assert {cell.alpha for cell in cells([trial])} == set(names)
