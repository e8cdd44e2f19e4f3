"""`trimtab evaluate`: a model's answers, with and without an edit, judged."""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trimtab.cli.console import ERR, OUT, echo_json
from trimtab.cli.noise import clean_streams
from trimtab.cli.run import (
    AsJson,
    NumGpus,
    Out,
    Precision,
    Precisions,
    Threads,
    absolute,
    on_this_machine,
)
from trimtab.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trimtab.stream.evaluate import Evaluated
    from trimtab.stream.evaluate_config import EvaluateJob

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Who answers: Hugging Face id, folder, nursery:base|instruct|guard, or twin:ID.",
    ),
]
Prompts = Annotated[
    str,
    typer.Option(
        help="A JSONL file (`id`, `prompt`, perhaps `reference`), `flames`, or `nursery`."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="With `flames`: the released file.", show_default="it is fetched"),
]
Judge = Annotated[
    str,
    typer.Option(help="`rule`, `rule:FILE`, an OpenAI-compatible https://host/v1, or a model."),
]

Edit = Annotated[
    Path | None, typer.Option(help="Blend in this autoencoder: ours, SAELens' or sparsify's.")
]
Layer = Annotated[
    int | None,
    typer.Option(help="The block to edit.", show_default="what its folder says", min=0),
]
Alpha = Annotated[
    str | None, typer.Option(help="Strengths of the blend: 0.05,0.1,0.2.", show_default="0.1")
]
JudgeModel = Annotated[str, typer.Option(help="What the endpoint calls its model.")]
JudgeKey = Annotated[str, typer.Option(help="The variable that holds the endpoint's key.")]
JudgeSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--judge-set",
        metavar="KEY=VALUE",
        help="More of the judge: dead_after=20, num_concurrent=32, price_in=0.15 and price_out=0.6 "
        "(of a million tokens). May be repeated.",
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="Ask only the first so many.", show_default="all", min=1)
]
Longest = Annotated[int, typer.Option(help="Longest answer.", min=1)]
Temperature = Annotated[float, typer.Option(help="Of drawing; 0 takes the likeliest token.", min=0)]
System = Annotated[
    str | None, typer.Option(help="System prompt.", show_default="the study's for flames")
]
Raw = Annotated[bool, typer.Option("--raw", help="Prompts as they are: no template.")]
Public = Annotated[
    bool, typer.Option("--public", help="A file's texts are not sensitive: MLflow gets them.")
]
Rows = Annotated[int, typer.Option(help="Most answers decoded side by side.", min=1)]
Draws = Annotated[int, typer.Option(help="Of drawn answers and of intervals.", min=0)]

_LEGEND = """\
{prompts} prompts, judged by {judge}; in brackets 95 % intervals. Perplexity is under
the unedited model. Failed verdicts are in no rate."""
_NET = """\
Net rate: wins less losses against the unedited model, of what was judged."""
_USAGE = (
    "Judge: {asked:,.0f} cases answered, {cached:,.0f} from its cache, {unanswered:,.0f} unanswered; "
    "{attempts:,.0f} requests, {prompt_tokens:,.0f} tokens read, {completion_tokens:,.0f} written"
)
_UNANSWERED = "{} cases got no answer from the judge. The same line asks for them again."

_WORDS = ("rule", "nursery:", "twin:")
_NEAR = 0.75
"""How alike a word and one of ours are at least; gpt2 and others without an owner are far off."""

_FAILURES = frozenset(
    f"evaluation/{of}/all" for of in ("failed", "safety_failed", "emotion_failed")
)
_FAILED = """\
{failed} verdicts failed: they are in no rate, mean or count. Most often:
{why}. `failed` in scores.parquet and pairs.parquet says it of each."""


def evaluate(
    model: Model,
    prompts: Prompts,
    judge: Judge,
    data: Data = None,
    sae: Edit = None,
    layer: Layer = None,
    alpha: Alpha = None,
    judge_model: JudgeModel = "",
    judge_key: JudgeKey = "",
    judge_set: JudgeSettings = None,
    limit: Limit = None,
    max_new_tokens: Longest = 512,
    temperature: Temperature = 0.7,
    system: System = None,
    raw: Raw = False,
    public: Public = False,
    rows: Rows = 64,
    seed: Draws = 0,
    out: Out = Path("runs"),
    threads: Threads = None,
    num_gpus: NumGpus = None,
    precision: Precision = Precisions.published,
    as_json: AsJson = False,
) -> None:
    """Asks a model, with and without an edit, judges the answers, and says what changed.

    Fluency is measured in every arm. What is answered and judged is kept: interrupted, the same
    line goes on. Texts of sensitive prompts stay in --out; MLflow gets ids, scores and hashes.
    """
    from trimtab.core.config import apply, build
    from trimtab.stream.evaluate_config import EvaluateJob

    held = {"precision": precision.value, "num_gpus": num_gpus}
    (spec,), _, workers = on_this_machine([model], held, None, threads)
    asked = _prompts(prompts, data, public=public)
    decoding = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    decoding["template"] = "raw" if raw else "chat"
    if (said := _system(system, flames=prompts == "flames" and not raw)) is not None:
        decoding["system"] = said
    tree: dict[str, Any] = {
        "model": spec,
        "prompts": asked,
        "limit": limit,
        "answers": {"decoding": decoding, "rows": rows, "workers": workers},
        "judge": _judge(judge, judge_model, judge_key, out.absolute()),
        "seed": seed,
        "out": out.absolute(),
    }
    for setting in judge_set or []:
        apply(tree["judge"], setting)
    if tree["judge"]["kind"] == "rule" and sae is not None:
        tree["evaluation"] = {"aspects": []}  # a rule says which answer is better, not what is safe
    if (edit := _edit(sae, layer, alpha)) is not None:
        tree["edit"] = edit
    run_evaluate(build(EvaluateJob, tree, where="trimtab evaluate"), as_json=as_json)


def run_evaluate(job: "EvaluateJob", *, as_json: bool = False) -> None:
    """Evaluates and prints a row for each arm.

    Raises:
        TrimtabError: something the user can mend.
    """
    from trimtab.cli import show
    from trimtab.cli.compare import print_runs
    from trimtab.report.comparison import Seen
    from trimtab.stream import evaluate as driver

    with clean_streams(result_only=as_json), show.Stages() as stages:
        found = driver.evaluate(job, stages.report)
    if found.unanswered:
        ERR.print(Text(_UNANSWERED.format(found.unanswered)), soft_wrap=True)
    if as_json:
        echo_json(_document(found))
        return
    if found.reused and not found.unanswered:
        ERR.print("Finished before, and reused.")
    arms = [Seen(name, "", "FINISHED", {}, metrics) for name, metrics in found.arms.items()]
    print_runs(arms, [])
    _print_failures(found)
    words = {"prompts": f"{found.prompts:,}", "judge": job.judge.kind}
    OUT.print(Text(_LEGEND.format(**words), style="dim"))
    if len(arms) > 1:
        OUT.print(Text(_NET, style="dim"))
    if found.judge:
        OUT.print(Text(_usage(found.judge)), soft_wrap=True)
    OUT.print(Text(f"  {show.near(found.folder)}"), soft_wrap=True)
    OUT.print(Text(f"MLflow run in trimtab/steer: {found.run_id}"), soft_wrap=True)


def _prompts(prompts: str, data: str | None, *, public: bool) -> dict[str, Any]:
    if prompts == "flames":
        return {"kind": "flames", "path": absolute(data) if data else None}
    if data is not None:
        asked = "asks about the packaged corpus" if prompts == "nursery" else "names a file"
        raise ConfigError(
            f"`--data` goes with `--prompts flames`, but `--prompts {prompts}` {asked}. Leave it out."
        )
    if prompts == "nursery":
        return {"kind": "nursery"}
    path = Path(prompts).expanduser()
    if path.is_dir() or not path.exists():
        fault = f"{prompts} is a folder" if path.is_dir() else f"there is no file {prompts}"
        near = get_close_matches(prompts.lower(), ("nursery", "flames"), n=1)
        advice = f"Did you mean `{near[0]}`?" if near else "Check its name."
        raise ConfigError(
            f"`--prompts` must be a JSONL file, `nursery` or `flames`, but {fault}. {advice}"
        )
    return {"kind": "jsonl", "path": absolute(prompts), "sensitive": not public}


def _edit(sae: Path | None, layer: int | None, alpha: str | None) -> dict[str, Any] | None:
    if sae is not None:
        alphas = ["0.1"] if alpha is None else alpha.split(",")
        return {"sae": sae.absolute(), "layer": layer, "alphas": alphas}
    if layer is not None or alpha is not None:
        option = "--alpha" if layer is None else "--layer"
        raise ConfigError(
            f"`{option}` says how to blend in an autoencoder, but none is given. Name one with "
            "`--sae`, or leave it out."
        )
    return None


def _system(system: str | None, *, flames: bool) -> str | None:
    from trimtab.evaluation.decoding import FLAMES_SYSTEM

    return FLAMES_SYSTEM if system is None and flames else system


def _judge(judge: str, model: str, key: str, out: Path) -> dict[str, Any]:
    kind, colon, rules = judge.partition(":")
    if kind == "rule" and colon and not rules:
        raise ConfigError(
            "`--judge rule:FILE` must name a file of rules, but nothing is after the colon. Name "
            "one, or give `--judge rule` for the packaged rules."
        )
    if kind == "rule":
        return {"kind": "rule"} | ({"rules": absolute(rules)} if rules else {})
    if not judge.startswith(("http://", "https://")):
        _check_word(judge, kind + colon)
        return {"kind": "local", "model": {"id": absolute(judge)}}
    if not model:
        raise ConfigError(
            f"An endpoint must be told which model is to judge, but {judge} stands alone. Name it "
            "with `--judge-model`."
        )
    asked = {"kind": "http", "url": judge, "model": model, "api_key_env": key}
    return asked | {"cache": out / "judged"}


def _check_word(judge: str, word: str) -> None:
    """Refuses what is nearly one of our words: as a model's id it would be looked for on the hub.

    Args:
        word: the judge up to its colon, if it has one.
    """
    near = get_close_matches(word.lower(), _WORDS, n=1, cutoff=_NEAR)
    if near and word not in _WORDS and "/" not in word and not Path(judge).expanduser().exists():
        raise ConfigError(
            "`--judge` must be `rule`, `rule:FILE`, an endpoint like https://host/v1 or a model, but "
            f"{judge} is none that is known. Did you mean `{near[0]}`?"
        )


def _usage(judge: "Mapping[str, float]") -> str:
    """What an endpoint was asked, and what it cost, in a line."""
    said = {name.removeprefix("judge/"): value for name, value in judge.items()}
    cost = f"; cost {said['cost']:,.4g}" if "cost" in said else ""
    return _USAGE.format(**said) + cost


def _print_failures(found: "Evaluated") -> None:
    """How many verdicts are missing, and why."""
    failed = sum(
        value
        for metrics in found.arms.values()
        for name, value in metrics.items()
        if name in _FAILURES
    )
    if failed:
        said = _FAILED.format(failed=f"{failed:,.0f}", why=_commonest_failure(found.folder))
        OUT.print(Text(said, style="bold yellow"))


def _commonest_failure(folder: Path) -> str:
    import polars as pl

    from trimtab.stream.evaluate import TABLES

    whys = pl.concat([pl.read_parquet(folder / name, columns=["failed"]) for name in TABLES])
    counts = whys.filter(pl.col("failed") != "").group_by("failed").len()
    return counts.sort("len", "failed", descending=[True, False])["failed"][0]


def _document(found: "Evaluated") -> dict[str, object]:
    return {
        "model": found.card.label,
        "prompts": found.prompts,
        "arms": found.arms,
        "folder": str(found.folder),
        "reused": found.reused,
        "unanswered": found.unanswered,
        "judge": found.judge,
        "mlflow_run": found.run_id,
        "tracking_uri": found.tracking_uri,
    }
