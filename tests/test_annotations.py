"""Source that type checkers and readers can follow: few values of any type, one door to SQLite."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_UNTYPED = 75  # it was 249 once; what stays is mostly options by keyword, and values of untyped libraries
SOURCES = [
    ROOT / "docmill" / "__init__.py",
    *(path for package in ("features", "worker", "tasks", "storage") for path in (ROOT / package).rglob("*.py")),
]


def _untyped(source: str) -> Iterator[int]:
    """Yield the line of each parameter and variable that is annotated as a value of any type."""
    for node in ast.walk(ast.parse(source)):
        annotation = node.annotation if isinstance(node, ast.arg | ast.AnnAssign) else None
        if annotation is not None and ast.unparse(annotation).split(" ")[0] in {"Any", "typing.Any"}:
            yield annotation.lineno


@pytest.mark.slow
def test_few_parameters_and_variables_may_have_any_value() -> None:
    found = {(path, line) for path in SOURCES for line in _untyped(path.read_text(encoding="utf-8"))}
    listed = sorted(f"{path.relative_to(ROOT)}:{line}" for path, line in found)
    assert 0 < len(listed) <= MOST_UNTYPED, "\n".join(listed)


def test_a_parameter_and_a_variable_of_any_value_are_found() -> None:
    source = "def f(a: Any, b: int, **c: Any):\n  d: Any | None = 1\n  e: dict[str, Any] = {}\n"
    assert sorted(_untyped(source)) == [1, 1, 2]


def test_at_most_two_modules_ask_for_sqlite() -> None:
    assert len([path for path in SOURCES if "is_sqlite" in path.read_text(encoding="utf-8")]) <= 2
