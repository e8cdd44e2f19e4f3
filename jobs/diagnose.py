"""The diagnose job: a file of `sweeps/` in, one MLflow run per model out.

    python jobs/diagnose.py sweeps/diagnose-demo.yaml out=runs
    ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/diagnose.py sweeps/...

The same line works on a laptop and on a cluster. Say it again after a failure: what is finished is
reused.
"""

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.noise import quiet
from trimtab.cli.run import AsJson, run_diagnose
from trimtab.cli.seam import guarded


@guarded()
def main(
    config: Annotated[Path, typer.Argument(help="A YAML file that says `job: diagnose`.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="out=runs extract.layers=all"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Diagnoses the models of a configuration file, with keys overridden as you say."""
    quiet()
    # Imported only now: what `quiet` sets is read when ray and transformers are imported.
    from trimtab.core.config import load_job
    from trimtab.stream.config import DiagnoseConfig

    run_diagnose(load_job(config, DiagnoseConfig, overrides or []), as_json=as_json)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
