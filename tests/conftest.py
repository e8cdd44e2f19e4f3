"""What every room's tests share: where the real data is, and one local Ray."""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("trimtab", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("trimtab")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real data and weights; a test that wants it skips where it is absent."""
    default = Path(__file__).parents[2] / "shared"
    path = Path(os.environ.get("TRIMTAB_TEST_DATA", default))
    if not (path / "data").is_dir():
        pytest.skip(f"no real data at {path}; set TRIMTAB_TEST_DATA to a folder that has it")
    return path


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """The one Ray of the session, with a HOME and a folder of its own; mark its tests `ray`."""
    import ray

    # A socket's path must stay below 108 characters, which pytest's own folders exceed.
    folder = Path(tempfile.mkdtemp(prefix="tt-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # its workers import tests' support
        patch.delenv("RAY_ADDRESS", raising=False)
        (folder / "home").mkdir()
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            logging_level=logging.WARNING,
            _temp_dir=str(folder / "ray"),
        )
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
