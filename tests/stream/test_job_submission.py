"""The laptop-to-cluster path: the same job, submitted to a Ray of its own, gives the same numbers.

The cluster is shaped as cluster.yaml's: a head that runs no task, a worker node, token
authentication. Two thirds of the time go into starting processes that import torch.
"""

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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from trimtab.stream.config import DiagnoseConfig
from trimtab.stream.diagnose import Outcome
from trimtab.stream.diagnosis import load_diagnosis

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NODE_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
HEAD_PORTS = ("port", "dashboard-port", "ray-client-server-port", *NODE_PORTS)
START_SECONDS = 60


class Cluster(NamedTuple):
    """A head and a worker node of our own."""

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


@contextmanager
def node(
    environment: dict[str, str], log: Path, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start --block`; afterwards it and what it started are gone, and no other Ray is."""
    with log.open("wb") as file:
        started = subprocess.Popen(
            [BIN / "ray", "start", "--block", "--disable-usage-stats", *options],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def own_environment(home: Path) -> dict[str, str]:
    """A shell in which nothing points to another Ray, with a token of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    environment = kept | {
        "HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    generate = [BIN / "ray", "get-auth-token", "--generate"]
    subprocess.run(generate, env=environment, check=True, capture_output=True)
    return environment


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs and a worker with two, in a folder of their own, on ports of their own."""
    # A socket's path must stay below 108 characters, which pytest's own folders exceed.
    folder = Path(tempfile.mkdtemp(prefix="tt-"))
    environment = own_environment(folder)
    numbers = iter(free_ports(len(HEAD_PORTS) + len(NODE_PORTS)))
    ports = {name: next(numbers) for name in HEAD_PORTS}
    workers_ports = {name: next(numbers) for name in NODE_PORTS}
    url = f"http://127.0.0.1:{ports['dashboard-port']}"
    anywhere = ["--min-worker-port=0", "--max-worker-port=0"]
    as_head = ["--head", "--num-cpus=0", "--num-gpus=0", f"--temp-dir={folder / 'ray'}"]
    # Nodes of one machine must not share a folder: each would unpack the job under the others.
    as_worker = [
        f"--address=127.0.0.1:{ports['port']}",
        "--num-cpus=2",
        f"--temp-dir={folder / 'w'}",
    ]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        options = [*as_head, "--dashboard-host=127.0.0.1", *anywhere, *flags(ports)]
        head = stack.enter_context(node(environment, folder / "head.log", *options))
        wait_until_up(url, head)
        options = [*as_worker, *anywhere, *flags(workers_ports)]
        stack.enter_context(node(environment, folder / "worker.log", *options))
        yield Cluster(environment | {"RAY_ADDRESS": url}, folder / "ray")


def flags(ports: dict[str, int]) -> list[str]:
    return [f"--{name}={port}" for name, port in ports.items()]


def submit(environment: dict[str, str], *entrypoint: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` as the README has it, from the repository's root."""
    return subprocess.run(
        [BIN / "ray", "job", "submit", "--runtime-env", "jobs/runtime_env.yaml", "--", *entrypoint],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
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
