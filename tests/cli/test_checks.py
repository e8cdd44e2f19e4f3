"""The doctor: what is broken is found, named and given a remedy."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.cli import checks


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_machine_where_the_tests_run_is_sound(run: Callable, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--out", tmp_path, "--json")
    found = {check["name"]: check for check in json.loads(out)}
    assert code == 0
    assert {"python", "torch", "ray", "mlflow", "CPU", "disk", "nursery"} <= set(found)
    assert all(check["remedy"] for check in found.values() if check["state"] != "ok")


def test_what_does_not_answer_ends_with_2_and_its_remedy(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{closed_port()}")
    code, out, err = run("doctor", "--out", tmp_path)
    assert (code, err) == (2, "")
    assert out.count("problem") == 2
    assert "unset MLFLOW_TRACKING_URI" in out
    assert "ray up cluster.yaml" in out


def test_a_cluster_that_listens_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        assert checks.ray_cluster().state == "ok"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:no-port")
    assert checks.ray_cluster().state == "problem"


@pytest.mark.parametrize(
    ("mode", "token", "state"),
    [
        ("token", "", "problem"),
        ("token", "secret", "ok"),
        ("", "secret", "note"),
        ("", "", "ok"),
        ("disabled", "", "ok"),
    ],
)
def test_a_ray_token_is_looked_for_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, token: str, state: str
) -> None:
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(token)
    check = checks.ray_token()
    assert check.state == state
    assert "secret" not in str(check)


def test_a_place_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert checks.disk(tmp_path / "file" / "runs").state == "problem"
    assert checks.disk(tmp_path / "new" / "runs").state in ("ok", "note")
