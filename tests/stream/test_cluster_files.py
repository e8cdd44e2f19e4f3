"""What travels with a job, and whether Ray takes the cluster files."""

import subprocess
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config

from trimtab.core.config import load_job
from trimtab.models.hardware import machine_of
from trimtab.stream.config import DiagnoseConfig
from trimtab.stream.planning import PUBLISHED, plan_models

ROOT = Path(__file__).parents[2]
CLUSTERS = ("cluster.yaml", "cluster-on-premise.yaml")
UPLOAD_LIMIT = 20 * 2**20


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def package(folder: Path, target: Path, excludes: list[str], parent: bool) -> set[str]:
    """What Ray packs of a folder, by its own code, when `ray job submit` uploads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray's use of its own pathspec
        create_package(
            str(folder), target, True, include_parent_dir=parent, excludes=list(excludes)
        )
    with zipfile.ZipFile(target) as file:
        return {name for name in file.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str], int]:
    """Files of the working directory, files of the package, bytes of both archives."""
    env, folder = read("jobs/runtime_env.yaml"), tmp_path_factory.mktemp("upload")
    excludes = env["excludes"]
    assert env["working_dir"] == "."
    (module,) = env["py_modules"]
    work = package(
        ROOT, folder / "work.zip", get_runtime_env_default_excludes() + excludes, parent=False
    )
    code = package(ROOT / module, folder / "code.zip", excludes, parent=True)
    return work, code, sum(path.stat().st_size for path in folder.iterdir())


def test_an_upload_holds_the_jobs_and_one_copy_of_the_package_and_is_small(
    upload: tuple[set[str], set[str], int],
) -> None:
    work, code, num_bytes = upload
    assert {"jobs/diagnose.py", "sweeps/diagnose-demo.yaml", "pyproject.toml"} <= work
    assert {"trimtab/__init__.py", "trimtab/scenarios/data/corpus.tsv"} <= code
    assert {name.split("/")[0] for name in code} == {"trimtab"}
    assert not {"platform", "tests", "docs", ".venv", ".git"} & {n.split("/")[0] for n in work}
    assert num_bytes < UPLOAD_LIMIT


def test_nothing_that_git_ignores_travels(upload: tuple[set[str], set[str], int]) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    known, (work, code, _) = set(listed.stdout.splitlines()), upload
    assert work <= known
    assert {f"platform/{name}" for name in code} <= known


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_takes_the_cluster_file(name: str) -> None:
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_typo_in_a_cluster_file_is_refused(name: str) -> None:
    config = read(name)
    config["hed_start_ray_commands"] = config.pop("head_start_ray_commands")
    with pytest.raises(Exception, match="hed_start_ray_commands"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_a_cluster_file_copies_is_there_and_every_node_gets_the_token(name: str) -> None:
    config = read(name)
    local = set(config["file_mounts"].values())
    assert "~/.ray/auth_token" in local
    assert all((ROOT / path).exists() for path in local - {"~/.ray/auth_token"})
    started = "\n".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    everywhere = "--env RAY_AUTH_MODE=token" in config.get("docker", {}).get("run_options", [])
    assert everywhere or started.count("RAY_AUTH_MODE=token") == 2


@pytest.mark.parametrize("name", CLUSTERS)
def test_no_task_runs_on_the_head(name: str) -> None:
    start = read(name)["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in start
    assert "--num-gpus=0" in start


def test_node_types_are_what_the_models_of_the_study_need() -> None:
    config = read("cluster.yaml")
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    workers = {name: kind for name, kind in types.items() if name != "head"}
    assert all(kind["resources"]["CPU"] > 0 == kind["min_workers"] for kind in workers.values())
    assert max(kind["max_workers"] for kind in workers.values()) <= config["max_workers"]


def test_every_model_of_the_study_has_a_place_on_the_clusters_gpus() -> None:
    config = read("cluster.yaml")
    options = config["docker"]["run_options"]
    (said,) = [o.partition("TRIMTAB_GPU=")[2] for o in options if "TRIMTAB_GPU=" in o]
    machine = machine_of(said, host_bytes=10**12)
    workers = config["available_node_types"]
    per_node = {name: kind["resources"]["GPU"] for name, kind in workers.items()}
    assert machine.gpus_per_node == per_node["gpu-spot"] == per_node["gpu-on-demand"]
    assert machine.num_gpus == per_node["gpu-spot"] * config["max_workers"]
    sweep = load_job(ROOT / "sweeps/diagnose-23-models.yaml", DiagnoseConfig)
    for one in plan_models(sweep.models, machine, PUBLISHED, sweep.extract.token_budget):
        assert one.plan is not None, one.error
        assert one.plan.gpus_per_replica <= machine.gpus_per_node


def test_spot_machines_come_first_and_have_a_like_for_like_fallback() -> None:
    types = read("cluster.yaml")["available_node_types"]
    spot, fallback = types["gpu-spot"], types["gpu-on-demand"]
    assert spot["priority"] > fallback["priority"]
    assert spot["resources"] == fallback["resources"]
    market = spot["node_config"].pop("InstanceMarketOptions")
    assert market == {"MarketType": "spot"}
    assert spot["node_config"] == fallback["node_config"]
