"""What pydantic found wrong with a record, in the words of who wrote the file.

A line for every key that is wrong: the key as it was written, what is allowed there, what was
given. Left out are what pydantic adds to a path (the kind of a union that it took), what only
follows from another mistake, and whole sections, of which the check names what is wrong.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from inspect import isclass
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

SECRET: Final = "secret"
"""The `PydanticCustomError` type of a value that must not be quoted in a message."""

_WORDS: Final = {
    "model_type": "must hold `key: value` pairs",
    "dict_type": "must hold `key: value` pairs",
    "tuple_type": "must be a list, like [1, 2]",
}
"""Instead of pydantic's, which name Python's types."""
_LONGEST: Final = 80
"""Characters of a value that are quoted."""
_KIND: Final = "kind"
"""The key that all our unions of records are told apart by."""

_Path = tuple[str | int, ...]


class _Fault(NamedTuple):
    """One thing that is wrong."""

    path: _Path
    """The key, as it was written."""
    says: str
    """What is allowed there."""
    given: str
    """What was there, quoted; empty where it should not be."""


def explained(kind: type[BaseModel], tree: Mapping[str, Any], error: ValidationError) -> list[str]:
    """A line for every key that is wrong.

    Args:
        kind: the record that was to be built.
        tree: what it was to be built from.
        error: what pydantic said of it.
    """
    by_path: dict[_Path, list[_Fault]] = {}
    for problem in error.errors():
        fault = _fault(kind, tree, dict(problem))
        by_path.setdefault(fault.path, []).append(fault)
    # A list whose items are wrong is said to be too short as well: it is not.
    return [_line(faults) for path, faults in by_path.items() if not _is_above(path, by_path)]


def _is_above(path: _Path, others: Iterable[_Path]) -> bool:
    return any(len(other) > len(path) and other[: len(path)] == path for other in others)


def _line(faults: list[_Fault]) -> str:
    """Of a union, each kind has said what it takes; a check of the whole names its keys itself."""
    path, _, given = faults[0]
    says = " or ".join(dict.fromkeys(fault.says for fault in faults))
    if not path:
        return says
    between = " " if says.startswith("is ") else ": "
    return f"`{'.'.join(map(str, path))}`{between}{says}{given}"


def _fault(kind: type[BaseModel], tree: Mapping[str, Any], problem: dict[str, Any]) -> _Fault:
    path: _Path = problem["loc"]
    written = _written(path, tree)
    match problem["type"]:
        case "extra_forbidden":
            keys = [key for record in _records_at(kind, path[:-1]) for key in record.model_fields]
            return _Fault(written, f"is not a known key; {_near(str(path[-1]), keys)}", "")
        case "missing":
            return _Fault((*_written(path[:-1], tree), path[-1]), "is required", "")
        case "union_tag_not_found" | "union_tag_invalid":
            return _fault_of_kind(kind, path, written, problem)
        case "value_error":
            says = str(problem["ctx"]["error"])
        case "too_short":
            least = problem["ctx"]["min_length"]
            says = f"must have at least {least} item{'s' if least > 1 else ''}"
        case other:
            says = _WORDS[other] if other in _WORDS else problem["msg"]
    is_named = problem["type"] == "value_error" and isinstance(problem["input"], Mapping)
    hidden = is_named or problem["type"] == SECRET
    return _Fault(written, says, "" if hidden else f" (got {_short(problem['input'])})")


def _fault_of_kind(
    kind: type[BaseModel], path: _Path, written: _Path, problem: dict[str, Any]
) -> _Fault:
    """A section whose `kind:` is missing or is none that there is."""
    kinds = [name for record in _records_at(kind, path) for name in _kinds(record)]
    given = problem["ctx"].get("tag")
    if given is None:
        return _Fault((*written, _KIND), f"is required: {_listed(kinds)}", "")
    return _Fault((*written, _KIND), f"{given!r} is not known; {_near(given, kinds)}", "")


def _written(path: _Path, tree: Any) -> _Path:  # noqa: ANN401 (whatever YAML holds)
    """The part of a path that stands in the file."""
    found: list[str | int] = []
    for part in path:
        if isinstance(tree, list | tuple):
            tree = dict(enumerate(tree))
        if isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
            found.append(part)
    return tuple(found)


def _records_at(kind: type[BaseModel], path: _Path) -> list[type[BaseModel]]:
    """The records that a path leads to: several where they are a union and none was taken."""
    records = [kind]
    for part in path:
        fields = [record.model_fields[part] for record in records if part in record.model_fields]
        taken = [record for record in records if part in _kinds(record)]
        if fields:
            records = [inner for field in fields for inner in _records_in(field.annotation)]
        elif taken:
            records = taken
    return records


def _records_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _records_in(inner)


def _kinds(record: type[BaseModel]) -> tuple[str, ...]:
    field = record.model_fields.get(_KIND)
    return get_args(field.annotation) if field else ()


def _near(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 3]}..."
