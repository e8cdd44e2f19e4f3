"""The sweep job: a file of `sweeps/` that says `job: sweep` in, compared trials out.

    python jobs/sweep.py sweeps/sae-demo.yaml out=runs
    python jobs/sweep.py sweeps/sae-demo.yaml --dry-run
    ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/sweep.py sweeps/...

The same line works on a laptop and on a cluster. Say it again after an interruption: finished
trials are not repeated, and the others go on from their saved states.
"""

import typer

from trimtab.cli.noise import quiet
from trimtab.cli.seam import guarded
from trimtab.cli.sweep import AsJson, DryRun, File, Overrides, run_sweep


@guarded()
def main(
    file: File, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Runs the sweep of a configuration file, with keys overridden as you say."""
    quiet()
    # Imported only now: what `quiet` sets is read when ray and transformers are imported.
    from trimtab.core.config import load_job
    from trimtab.sweep.spec import SweepConfig

    config = load_job(file, SweepConfig, overrides or [])
    run_sweep(config, dry_run=dry_run, as_json=as_json)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
