"""Configuration: closed, frozen records, and the one function that reads YAML.

A record says what its owner needs, with a docstring and a unit under each field. An unknown key,
a wrong type or a broken rule is one error that names the key, what was given and what is allowed.
A sweep file begins with `job:`, which says which record builds it; a job refuses the other kind.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trimtab.core.errors import ConfigError
from trimtab.core.explain import explained
from trimtab.core.hashing import content_hash


class Config(BaseModel):
    """Base of all configuration records."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @property
    def hash(self) -> str:
        """Content hash of every field."""
        return content_hash(self.model_dump(mode="json"))


class JobConfig(Config):
    """Base of what a file under `sweeps/` says."""

    JOB: ClassVar[str]
    """The value of `job:` that this record is built by."""

    job: str
    """Which job reads this file."""


AnyConfig = TypeVar("AnyConfig", bound=Config)
AnyJob = TypeVar("AnyJob", bound=JobConfig)


def load_job(path: Path, kind: type[AnyJob], overrides: Sequence[str] = ()) -> AnyJob:
    """Builds a job's configuration from its YAML file and `key=value` overrides.

    Args:
        path: the YAML file.
        kind: the record of the job that is asking.
        overrides: `key=value` or `key.inner=value`; the value is read as YAML.

    Raises:
        ConfigError: the file is missing, is not YAML, belongs to another job, or says
            something the record does not allow.
    """
    tree = read_yaml(path)
    job = tree.get("job")
    if job != kind.JOB:
        raise ConfigError(
            f"{path} must say `job: {kind.JOB}` to be run by this job, but it says `job: {job}`. "
            + (f"Run it with `jobs/{job}.py`." if job else f"Add `job: {kind.JOB}` at its top.")
        )
    for override in overrides:
        apply(tree, override)
    return build(kind, tree, where=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping a YAML file holds.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be UTF-8, but byte {error.start} is not.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {_said(error)}.") from error
    if not isinstance(tree, dict):
        holds = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        raise ConfigError(f"{path} must hold `key: value` lines, but {holds}.")
    return tree


def _said(error: yaml.YAMLError) -> str:
    """What is wrong and in which line; a character that YAML does not know has no line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def build(kind: type[AnyConfig], tree: dict[str, Any], where: str) -> AnyConfig:
    """A record from a tree of plain values.

    Args:
        where: the file or command that the values came from, for the message.

    Raises:
        ConfigError: one line for every field that is wrong.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = "\n  ".join(explained(kind, tree, error))
        raise ConfigError(f"{where} is not a valid {kind.__name__}:\n  {lines}") from error


def apply(tree: dict[str, Any], override: str) -> None:
    """Puts a `key=value` or `key.inner=value` into a tree; the value is read as YAML.

    Raises:
        ConfigError: it does not look like that.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"An override must look like key=value, but got {override!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(
                f"The override {override!r} goes through `{parent}`, which is a value."
            )
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"The value of the override {override!r} is not valid YAML.") from error


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """A tree of settings as `a.b.c` keys."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
