"""Ray Tune lives in one room: what import-linter cannot say of a package within a package."""

import ast
from pathlib import Path

import trimtab

ROOT = Path(trimtab.__file__).parent


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def who_imports(prefix: str) -> set[str]:
    return {
        str(path.relative_to(ROOT).parts[0])
        for path in ROOT.rglob("*.py")
        if any(name == prefix or name.startswith(f"{prefix}.") for name in imported(path))
    }


def test_ray_tune_is_imported_by_the_sweep_alone() -> None:
    assert who_imports("ray.tune") == {"sweep"}


def test_ray_data_is_not_imported_by_the_sweep() -> None:
    assert who_imports("ray.data") == {"stream"}


def test_optuna_is_imported_by_the_sweep_alone() -> None:
    assert who_imports("optuna") == {"sweep"}
