"""Configuration records, the YAML reader and its errors."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, PositiveInt, model_validator

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
        ("", [], "must hold `key: value` lines, but is empty"),
        ("job: bake\n  asks: [1\n", [], r"not valid YAML: line 2, column 7: mapping values are"),
        ("a: \x00\n", [], "not valid YAML: unacceptable character"),
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


class Cake(Config):
    kind: Literal["cake"]
    """What."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Which."""
    sugar: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    """How much."""

    @model_validator(mode="after")
    def _is_sweet(self) -> "Cake":
        if sum(self.sugar) < 1:
            raise ValueError(f"`sugar` must come to 1, but is {self.sugar}")
        return self


class Bread(Config):
    kind: Literal["bread"]
    """What."""
    grain: str = "rye"
    """Of what."""


class Oven(JobConfig):
    JOB: ClassVar[str] = "oven"

    baked: Annotated[Cake | Bread, Field(discriminator="kind")]
    """What is in it."""
    inner: Inner = Inner()
    """What is inside."""
    heat: tuple[int, ...] = (180,)
    """Degrees."""

    @model_validator(mode="after")
    def _is_hot(self) -> "Oven":
        if max(self.heat) < 100:
            raise ValueError(f"`heat` must reach 100, but is {self.heat}")
        return self


@pytest.mark.parametrize(
    ("tree", "lines"),
    [
        ({"heat": [90]}, ["`heat` must reach 100, but is (90,)"]),
        ({"heat": 90}, ["`heat`: must be a list, like [1, 2] (got 90)"]),
        ({"inner": 3}, ["`inner`: must hold `key: value` pairs (got 3)"]),
        (
            {"baked": {"kind": "cake", "sugar": [0]}},
            ["`baked`: `sugar` must come to 1, but is (0.0,)"],
        ),
        (
            {"baked": {"kind": "cake", "sugar": []}},
            ["`baked.sugar`: must have at least 1 item (got [])"],
        ),
        (
            {"baked": {"kind": "cake", "sugar": ["x"]}},
            [
                "`baked.sugar.0`: Input should be a valid number, "
                "unable to parse string as a number (got 'x')"
            ],
        ),
        (
            {"baked": {"kind": "cake", "layers": "al"}},
            ["`baked.layers`: Input should be 'all' or must be a list, like [1, 2] (got 'al')"],
        ),
        (
            {"baked": {"kind": "cake", "layers": ["x"]}},
            [
                "`baked.layers.0`: Input should be a valid integer, "
                "unable to parse string as an integer (got 'x')"
            ],
        ),
        ({"baked": {}}, ["`baked.kind` is required: `cake`, `bread`"]),
        ({"baked": {"kind": "bred"}}, ["`baked.kind`: 'bred' is not known; did you mean `bread`?"]),
        ({"baked": {"kind": "pie"}}, ["`baked.kind`: 'pie' is not known; known: cake, bread"]),
        (
            {"baked": {"kind": "bread", "sugr": 1}},
            ["`baked.sugr` is not a known key; known: kind, grain"],
        ),
        (
            {"baked": {"kind": "cake", "sugr": 1}},
            ["`baked.sugr` is not a known key; did you mean `sugar`?"],
        ),
        (
            {"inner": {"size": ["long"] * 100}},
            [f"`inner.size`: Input should be a valid integer (got {(['long'] * 100)!r:.77}...)"],
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_key_as_it_was_written(
    tree: dict[str, Any], lines: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Oven, {"job": "oven", "baked": {"kind": "bread"}} | tree, where="here")
    assert str(caught.value).splitlines()[1:] == [f"  {line}" for line in lines]


def test_every_wrong_field_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        build(Job, {"job": "bake", "inner": {"size": "x"}, "wrong": 1}, where="here")
    assert len(str(caught.value).splitlines()) == 4
