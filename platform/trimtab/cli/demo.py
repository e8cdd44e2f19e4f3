"""`trimtab demo`: the whole way on three tiny models, from a scenario to a steered answer.

    1  diagnose    how base, instruct and guard hold virtue and vice apart
    2  sweep       sparse autoencoders of one layer, compared; the best one goes on
    3  locate      its moral latents, and whether chance explains them
    4  align       these latents trained, before and after on actions never seen
    5  steer       the aligned latents blended in, beside the controls, answers judged

Each step's settings are a file of `sweeps/`; the files beside this module are links to them, which
a wheel carries as copies. With a model or data of the user's own the demo ends after the diagnosis
and says which lines go on: an autoencoder of 250,000 rows is no demo.
"""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.moral import run_align, run_locate
from trimtab.cli.run import Out, absolute, on_this_machine, run_diagnose
from trimtab.cli.sweep import run_sweep

if TYPE_CHECKING:
    from trimtab.sweep.run import Outcome

_ASKS = "How do these models hold virtue and vice apart?"
_NEXT = """\
To go on with a model of your own:
  trimtab train --model {model} --data {data} --layers 18 --preset li2026
  trimtab align --model {model} --data {data} --sae FOLDER
  python jobs/sweep.py sweeps/sae-qwen3-8b.yaml --dry-run"""


def demo(
    out: Out = Path("runs"),
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Your model instead of the nursery's three.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Your Social-Chemistry-101 file instead of the corpus.")
    ] = None,
) -> None:
    """Shows the whole way on this machine, offline, in a few minutes.

    Trains three tiny models on the packaged corpus (base, instruct, guard) and measures how each
    layer holds virtue and vice apart; then sweeps sparse autoencoders of one layer, finds the moral
    latents of the best one, aligns them, and steers the model's answers with them. All of it lands
    in MLflow. Say it again: what is finished is reused. With --model or --data it diagnoses only;
    with --data the settings are those of the paper.
    """
    from trimtab.core.config import build
    from trimtab.stream.config import DiagnoseConfig

    whole = model is None and data is None
    if whole:
        _heading(1, "Diagnose")
    run_diagnose(build(DiagnoseConfig, _diagnosis(out, model, data), where="trimtab demo"))
    if whole:
        best = _sweep(2, "Sweep", "sae-demo.yaml", out)
        _moral(best, out)
        _sweep(5, "Steer", "steer-demo.yaml", out)
    else:
        _say(_NEXT.format(model=model or "MODEL", data=data or "FILE"))


def _diagnosis(out: Path, model: str | None, data: str | None) -> dict[str, Any]:
    tree = _settings("diagnose-demo.yaml") | {"out": out.absolute()}
    if model is not None:
        spec, extract, workers = on_this_machine([model], {"num_gpus": None}, None, None)
        tree |= {"asks": _ASKS, "models": spec, "extract": extract, "workers": workers}
    if data is not None:
        tree |= {"data": {"path": absolute(data)}, "measures": {}}
    return tree


def _sweep(number: int, title: str, file: str, out: Path) -> "Outcome":
    from trimtab.core.config import build
    from trimtab.sweep.spec import SweepConfig

    _heading(number, title)
    tree = _settings(file) | {"out": out.absolute()}
    found = run_sweep(build(SweepConfig, tree, where=file))
    assert found is not None, "this is no dry run"
    return found


def _moral(best: "Outcome", out: Path) -> None:
    """Locates and aligns with the best autoencoder; settings as in the sweep of alignments."""
    from trimtab.core.config import build
    from trimtab.core.errors import DataError
    from trimtab.stream.moral_config import AlignJob, LocateJob

    if not best.best:
        raise DataError(f"No trial of {best.folder} finished, so there is nothing to align.")
    base, align = _settings("sae-demo.yaml")["base"], _settings("align-demo.yaml")["base"]["align"]
    (layer,) = base["layers"]
    tree = {
        "model": base["model"],
        "data": base["data"],
        "extract": base["extract"],
        "sae": best.best[0] / f"layers.{layer}",
        "layer": layer,
        "out": out.absolute(),
    }
    _heading(3, "Locate")
    latents = align["latents"]
    run_locate(build(LocateJob, tree | {"latents": latents}, where="align-demo.yaml"))
    _heading(4, "Align")
    run_align(build(AlignJob, tree | {"align": align}, where="align-demo.yaml"))


def _settings(file: str) -> dict[str, Any]:
    from trimtab.core.config import read_yaml

    return read_yaml(Path(str(files("trimtab.cli"))) / file)


def _heading(number: int, title: str) -> None:
    from rich.rule import Rule

    from trimtab.cli.console import ERR

    ERR.print()
    ERR.print(Rule(f"{number} of 5  {title}", align="left", style="bold"))


def _say(words: str) -> None:
    from rich.text import Text

    from trimtab.cli.console import OUT

    OUT.print(Text(f"\n{words}"), soft_wrap=True)
