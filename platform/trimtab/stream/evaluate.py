"""The driver of `trimtab evaluate`: prompts in; answers, verdicts and one MLflow run out.

    answers/NAME-HASH/edits/         parts of answers; another edit of the same model reuses the
                                     baseline's
    evaluated/NAME-HASH/scores.parquet, pairs.parquet, texts.parquet
                       result.json   written last: every arm's metrics

Answers are made on Ray as the plan says, kept as they finish, and each known by all that made it;
an endpoint's replies are kept too. Whoever starts again goes on from them, and a finished
evaluation is reused. One in which the endpoint left cases unanswered is not finished: the same line
asks for those again, and if that changes anything, it is another MLflow run. The same evaluation in
two processes at once is refused, for it would be logged twice. Judging and perplexity run in the
driver. MLflow has a run for the whole, with what the endpoint was asked and cost, and one below it
for each arm. Sensitive texts stay in their folder.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from trimtab.core.errors import ConfigError, JudgeError
from trimtab.core.files import writable_folder, write_json
from trimtab.core.hashing import content_hash
from trimtab.core.lock import locked
from trimtab.core.seeds import Seed
from trimtab.core.tracker import Metric
from trimtab.edits.arms import BASELINE, Arm, Coder, Materials
from trimtab.evaluation.evaluate import Plain
from trimtab.evaluation.evaluate import evaluate as evaluate_answers
from trimtab.evaluation.judges.build import JudgeConfig, asking, make_judge, usage_of
from trimtab.evaluation.prompts import Question
from trimtab.models.card import ModelCard, ModelConfig
from trimtab.models.loading import describe, load
from trimtab.sae.folder import load_sae
from trimtab.stream.answers import answer_stream
from trimtab.stream.config import ExtractJob
from trimtab.stream.evaluate_config import EditConfig, EvaluateJob
from trimtab.stream.publish import flat, git_commit
from trimtab.stream.steer_arms import arm_name
from trimtab.stream.steer_coders import check_coder
from trimtab.stream.steer_facts import check_judge, check_prompts, resolved_judge
from trimtab.stream.steer_prompts import name_of, read_prompts, source_of
from trimtab.stream.steer_results import Metrics, of_arm
from trimtab.stream.tasks import Report, resolved
from trimtab.stream.twins import in_the_originals_place
from trimtab.track.mlflow import MlflowTracker, prepare_store, run_exists, sqlite_uri

EXPERIMENT: Final = "trimtab/steer"
RESULT: Final = "result.json"
LOGGED: Final = "logged.json"
LOCK: Final = ".lock"
TABLES: Final = ("scores.parquet", "pairs.parquet")
TEXTS: Final = "texts.parquet"
EVALUATE_VERSION: Final = 2
"""Raised whenever the same configuration begins to give other numbers."""
_KIND: Final = "blend"

_log = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    """What an evaluation leaves behind."""

    card: ModelCard
    """The model."""
    folder: Path
    """Tables and the result."""
    arms: dict[str, Metrics]
    """Every arm's metrics by its name, the unedited model first."""
    prompts: int
    """How many were asked."""
    reused: bool
    """Whether it stands as it was judged before."""
    judge: Metrics
    """What an endpoint was asked, and what it cost."""
    unanswered: int
    """Cases that the endpoint left without an answer; the same line asks for them again."""
    run_id: str
    """MLflow's, of the whole."""
    tracking_uri: str
    """The MLflow store."""


class _Asked(NamedTuple):
    """An evaluation that can begin: all is there, and fits."""

    spec: ModelConfig
    card: ModelCard
    questions: list[Question]
    arms: list[Arm]
    materials: Materials
    judge: JudgeConfig
    digest: str
    """Of the questions."""
    answers: Path
    folder: Path


def evaluate(job: EvaluateJob, report: Report = lambda *_: None) -> Evaluated:
    """Asks a model, with and without an edit, and has its answers judged.

    Args:
        job: what to do.
        report: told about progress.

    Raises:
        TrimtabError: something the user can mend; what was answered is kept.
    """
    out = writable_folder(job.out).resolve()
    uri = prepare_store(job.tracking_uri or sqlite_uri(out))
    asked = _asked(job, out, report)
    with locked(asked.folder / LOCK, f"The evaluation in {asked.folder}"):
        return _judged(job, asked, uri, report)


def _judged(job: EvaluateJob, asked: _Asked, uri: str, report: Report) -> Evaluated:
    """What was judged before, or is judged now; nobody else is at it."""
    before = _read(asked.folder / RESULT)
    result = before if before and not _unanswered(before) else _anew(job, asked, before, report)
    reused = result is before
    if reused:
        report(f"{asked.card.label}: evaluated before, reused", 1, 1)
    return Evaluated(
        asked.card,
        asked.folder,
        result["arms"],
        len(asked.questions),
        reused,
        result["judge"],
        _unanswered(result),
        _logged(job, asked, result, uri),
        uri,
    )


def _asked(job: EvaluateJob, out: Path, report: Report) -> _Asked:
    extract = ExtractJob(data=job.data, out=out)
    questions = read_prompts(job.prompts, job.data, out)[: job.limit]
    check_prompts(job.model, job.answers.decoding, questions)
    judge = resolved_judge(job.judge, extract, report)
    stamps = check_judge(judge, job.evaluation)
    (spec,) = resolved((job.model,), extract, report)
    card = in_the_originals_place(describe(spec)[0])
    arms, materials = _arms(job.edit, card)
    decoding = job.answers.decoding.model_dump(mode="json")
    model, digest = content_hash(card.identity), content_hash([q._asdict() for q in questions])
    edits = [(arm.name, materials.identity(arm)) for arm in arms]
    scored = [stamps, job.judge.model_dump(mode="json"), job.evaluation.model_dump(mode="json")]
    made_by = [EVALUATE_VERSION, model, digest, decoding, edits, scored, job.seed]
    answers = out / "answers" / f"{card.label}-{content_hash([model, decoding, digest])}" / "edits"
    folder = writable_folder(out / "evaluated" / f"{card.label}-{content_hash(made_by)}")
    return _Asked(spec, card, questions, arms, materials, judge, digest, answers, folder)


def _arms(edit: EditConfig | None, card: ModelCard) -> tuple[list[Arm], Materials]:
    """The unedited model, and a blend at each strength.

    Raises:
        CoderError: no coder, or one of another width, model or layer.
        ConfigError: nobody says which layer it reads, or the model has no such layer.
    """
    if edit is None:
        return [BASELINE], Materials()
    sae, about = load_sae(edit.sae)
    layer = about.layer if edit.layer is None else edit.layer
    if layer is None:
        raise ConfigError(
            f"The autoencoder in {edit.sae} does not say which layer it reads. Name it with "
            "`--layer`."
        )
    if layer >= card.num_layers:
        asked = "`--layer` is" if edit.layer is not None else f"the one in {edit.sae} reads layer"
        raise ConfigError(
            f"The autoencoder must go to a layer of {card.label}, which has {card.num_layers} (0 to "
            f"{card.num_layers - 1}), but {asked} {layer}. Give another `--layer` or `--sae`."
        )
    advice = "Leave `--layer` out, or give another `--sae`."
    check_coder(edit.sae, layer, card.d_model, card.id, advice)
    blends = [
        Arm(name=arm_name(_KIND, alpha), kind=_KIND, layer=layer, alpha=alpha, coder="coder")
        for alpha in edit.alphas
    ]
    return [BASELINE, *blends], Materials({"coder": Coder(sae, layer=about.layer)})


def _anew(
    job: EvaluateJob, asked: _Asked, before: dict[str, Any], report: Report
) -> dict[str, Any]:
    """Evaluates; what came before stands if the endpoint cannot be asked, or says nothing more."""
    try:
        result = _evaluated(job, asked, report)
    except JudgeError as error:
        if not before:
            raise
        _log.warning("%d cases are still without an answer: %s", _unanswered(before), error)
        return before
    if before and (before["arms"], _unanswered(before)) == (result["arms"], _unanswered(result)):
        return before
    (asked.folder / LOGGED).unlink(missing_ok=True)  # other numbers are another run
    write_json(asked.folder / RESULT, result)
    return result


def _unanswered(result: dict[str, Any]) -> int:
    return int(result["judge"].get("judge/unanswered", 0))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _evaluated(job: EvaluateJob, asked: _Asked, report: Report) -> dict[str, Any]:
    """Every arm's metrics, and what the judge was asked."""
    label, questions = asked.card.label, asked.questions
    said = answer_stream(
        asked.spec,
        questions,
        asked.arms,
        asked.materials,
        job.answers,
        asked.answers,
        lambda done, of: report(f"{label}: answers", done, of),
    )
    report(f"{label}: judge", 0, 1)
    judge = asked.judge if asked.judge.kind == "http" else make_judge(asked.judge)
    plain, seed = Plain(load(asked.spec), job.answers.decoding), Seed(job.seed)
    with asking(judge) as judged_by:
        found = evaluate_answers(
            questions, said.answers, judged_by, plain, job.evaluation, seed, asked.folder
        )
    report(f"{label}: judge", 1, 1)
    arms = {
        one.arm: one.metrics
        | of_arm(
            one.arm,
            [answer for answer in said.answers if answer.arm == one.arm],
            found.judged.pairs,
            seed,
            job.evaluation.num_draws,
        )
        for one in found.arms
    }
    return {"arms": arms, "judge": usage_of(judged_by)}


def _logged(job: EvaluateJob, asked: _Asked, result: dict[str, Any], uri: str) -> str:
    """The id of the run in a store, logged there if it is not yet."""
    path = asked.folder / LOGGED
    runs = _read(path)
    if uri in runs and run_exists(uri, runs[uri]):
        return runs[uri]
    card, name = asked.card, f"evaluate {asked.folder.name}"
    tags = {
        "model": card.id,
        "family": card.family,
        "group": card.group,
        "data_hash": asked.digest,
        "sensitive": str(job.is_sensitive).lower(),
        "git_commit": git_commit(),
    }
    source = source_of(job.prompts)
    files = TABLES if job.is_sensitive else (*TABLES, TEXTS)
    with MlflowTracker(EXPERIMENT, name, uri, tags=tags) as run:
        run.params(flat(job.model_dump(mode="json", exclude={"out", "tracking_uri"})))
        asking_for = {"prompts": len(asked.questions)}
        run.dataset(name_of(job.prompts), asked.digest, source, asking_for)
        run.metrics(_at_zero(result["judge"]))
        for file in files:
            run.artifact(asked.folder / file, "tables")
        for arm in asked.arms:
            below = MlflowTracker(
                EXPERIMENT, f"{name} {arm.name}", uri, tags=tags, parent=run.run_id
            )
            with below:
                told = arm.model_dump(mode="json", include={"layer", "alpha"}, exclude_none=True)
                below.params({"edit": arm.kind} | told)
                below.metrics(_at_zero(result["arms"][arm.name]))
    write_json(path, runs | {uri: run.run_id})
    return run.run_id


def _at_zero(metrics: dict[str, float]) -> Sequence[Metric]:
    return [Metric(name, value, 0) for name, value in metrics.items()]
