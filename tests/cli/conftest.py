"""The command line as a user meets it, in this process: arguments in; exit code and streams out."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from toys import save_toy

from trimtab.cli.app import main
from trimtab.scenarios.corpus import corpus_path
from trimtab.track.mlflow import prepare_store, sqlite_uri


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests, because creating its tables takes seconds."""
    with mock.patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        return prepare_store(sqlite_uri(tmp_path_factory.mktemp("mlflow")))


@pytest.fixture(autouse=True)
def _environment(tracking: str) -> Iterator[None]:
    """What a command sets does not outlive its test."""
    with mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": tracking, "COLUMNS": "80"}):
        yield


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `trimtab ARGUMENTS`, or another entry point."""

    def call(*arguments: object, entry: Callable[[], None] = main) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            entry()
        code = stop.value.code
        assert code is None or isinstance(code, int)
        return Result(code or 0, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama toy in Hugging Face layout."""
    return save_toy(tmp_path_factory.mktemp("models") / "toy-llama")


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first lines of the corpus, with every foundation among them."""
    lines = corpus_path().read_text("utf-8").splitlines(keepends=True)
    path = tmp_path_factory.mktemp("data") / "few.tsv"
    path.write_text(lines[0] + "".join(lines[1::12]), "utf-8")
    return path
