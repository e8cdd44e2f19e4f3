"""Configuration records, the YAML reader and its errors."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field, PositiveInt

from trimtab.core.config import Config, JobConfig, build, load_job
from trimtab.core.errors import ConfigError


class Inner(Config):
    size: PositiveInt = 4
    """How many."""


class Job(JobConfig):
    JOB: ClassVar[str] = "bake"

    asks: str
    """Why."""
    inner: Inner = Inner()
    """What is inside."""


class Oven(Config):
    kind: Literal["oven"] = "oven"
    """Which."""
    degrees: PositiveInt = 200
    """Of it."""


class Pan(Config):
    kind: Literal["pan"] = "pan"
    """Which."""
    handle: str = ""
    """Of it."""


class Kitchen(Config):
    heat: Annotated[Oven | Pan, Field(discriminator="kind")]
    """The one."""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


GOOD = "job: bake\nasks: how long?\ninner: {size: 3}\n"


def test_a_file_and_its_overrides_make_a_record(tmp_path: Path) -> None:
    job = load_job(written(tmp_path, GOOD), Job, ["inner.size=7", "asks=why not?"])
    assert (job.inner.size, job.asks) == (7, "why not?")


def test_a_record_cannot_be_changed_and_equal_records_hash_alike(tmp_path: Path) -> None:
    job = load_job(written(tmp_path, GOOD), Job)
    with pytest.raises(ValueError, match="frozen"):
        job.asks = "other"
    assert job.hash == load_job(written(tmp_path, GOOD), Job).hash
    assert job.hash != load_job(written(tmp_path, GOOD), Job, ["inner.size=7"]).hash


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (GOOD + "aks: x\n", [], r"`aks` is not a known key; did you mean `asks`\?"),
        (GOOD, ["inner.sise=3"], r"`inner\.sise` is not a known key; did you mean `size`\?"),
        (GOOD, ["inner.size=0"], r"`inner\.size`.*greater than 0.*got 0"),
        (GOOD, ["inner.size"], "must look like key=value"),
        (GOOD, ["asks.deeper=1"], "goes through `asks`, which is a value"),
        (GOOD, ["asks=[1"], "not valid YAML"),
        ("job: bake\n", [], "`asks` is required"),
        ("job: sweep\nasks: x\n", [], r"must say `job: bake`.*says `job: sweep`.*jobs/sweep\.py"),
        ("asks: x\n", [], "Add `job: bake` at its top"),
        ("- a\n- b\n", [], "must hold `key: value` lines, but holds a list"),
        ("a: [1\n", [], "not valid YAML"),
        (b"asks: \xff\n", [], "must be UTF-8, but byte 6 is not"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(
    tmp_path: Path, text: str | bytes, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_job(written(tmp_path, text), Job, overrides)
    assert "job.yaml" in str(caught.value) or overrides


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_job(tmp_path / "nowhere.yaml", Job)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "pan", "handel": "x"}, r"`heat\.pan\.handel`.*did you mean `handle`"),
        ({"kind": "pan", "lid": "x"}, r"`heat\.pan\.lid`.*known: kind, handle$"),
        ({"kind": "oven", "lid": "x"}, r"`heat\.oven\.lid`.*known: kind, degrees$"),
        ({"kind": "grill"}, r"`heat`: .*'oven', 'pan'"),
    ],
)
def test_of_records_told_apart_by_their_kind_the_right_ones_keys_are_named(
    wrong: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        build(Kitchen, {"heat": wrong}, where="here")


def test_every_wrong_field_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        build(Job, {"job": "bake", "inner": {"size": "x"}, "wrong": 1}, where="here")
    assert len(str(caught.value).splitlines()) == 4
