"""The laptop-to-cluster path: the same job, submitted to a Ray of its own, gives the same numbers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from trimtab.stream.config import DiagnoseConfig
from trimtab.stream.diagnose import Outcome
from trimtab.stream.diagnosis import load_diagnosis

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
)
START_SECONDS = 60


class Cluster(NamedTuple):
    """A head node of our own."""

    environment: dict[str, str]
    """What a shell that talks to it has set."""
    folder: Path
    """Its sessions."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, away from those that Ray gives its workers."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            bound = stack.enter_context(socket.socket())
            bound.bind(("", 0))
            port = bound.getsockname()[1]
            if not 10_002 <= port <= 19_999:
                found.append(port)
        return found


def wait_until_up(url: str, head: subprocess.Popen[bytes]) -> None:
    """Any answer will do; without the token it is 401."""
    deadline = time.monotonic() + START_SECONDS
    while head.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/api/version", timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            time.sleep(0.2)
            continue
        return
    pytest.fail("the head node did not come up")


def stop(head: subprocess.Popen[bytes]) -> None:
    """Ends the head and what it started, and no other Ray."""
    head.terminate()
    try:
        head.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """`ray start --head` with token authentication, its own HOME, folder and ports."""
    # A socket's path must stay below 108 characters, which pytest's own folders exceed.
    folder = Path(tempfile.mkdtemp(prefix="tt-"))
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    url = f"http://127.0.0.1:{ports['dashboard-port']}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    environment = kept | {
        "HOME": str(folder),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    subprocess.run(
        ["ray", "get-auth-token", "--generate"],
        executable=BIN / "ray",
        env=environment,
        check=True,
        capture_output=True,
    )
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
    options += ["--num-cpus=4", "--dashboard-host=127.0.0.1", f"--temp-dir={folder / 'ray'}"]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", *options],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until_up(url, head)
        yield Cluster(environment | {"RAY_ADDRESS": url}, folder / "ray")
    finally:
        stop(head)
        shutil.rmtree(folder, ignore_errors=True)


def submit(environment: dict[str, str], *entrypoint: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` as the README has it, from the repository's root."""
    return subprocess.run(
        [BIN / "ray", "job", "submit", "--runtime-env", "jobs/runtime_env.yaml", "--", *entrypoint],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_submitted_job_gives_the_same_numbers(
    cluster: Cluster, plain: Outcome, plain_config: DiagnoseConfig, tmp_path: Path
) -> None:
    fields = plain_config.model_dump(mode="json", exclude={"job", "asks"})
    fields["out"] = str(tmp_path / "runs")
    overrides = [f"{key}={json.dumps(value)}" for key, value in fields.items()]
    line = ["python", "jobs/diagnose.py", "sweeps/diagnose-demo.yaml", *overrides]
    done = submit(cluster.environment, *line)
    assert done.returncode == 0, done.stdout + done.stderr
    (here,) = plain.diagnoses
    there = load_diagnosis(tmp_path / "runs" / "diagnoses" / here.folder.name)
    assert there is not None
    assert there.curves == here.curves
    assert there.to_json()["matrices"] == here.to_json()["matrices"]
    assert there.provenance["activations"] == here.provenance["activations"]


def test_a_job_runs_the_code_that_travelled_and_the_real_platform_module(cluster: Cluster) -> None:
    code = "import platform, trimtab; print(platform.python_version(), trimtab.__file__)"
    done = submit(cluster.environment, "python", "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if line.endswith("trimtab/__init__.py")]
    (version, path) = found[-1].split()
    assert version.startswith("3.")
    assert Path(path).is_relative_to(cluster.folder)


def test_a_job_without_the_token_mode_is_turned_away(cluster: Cluster) -> None:
    without = {k: v for k, v in cluster.environment.items() if k != "RAY_AUTH_MODE"}
    done = submit(without, "python", "-c", "print('never')")
    assert done.returncode != 0
    assert "RAY_AUTH_MODE" in done.stdout + done.stderr
