"""Docstrings keep the mechanical part of the house style."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_QUESTIONS = re.compile(r"(What|Whether|Which|Where|Who|Whom|Whose|How|Why|When|Those|That)\b")
_TIC = re.compile(r"(^|[.:;] )pure\.", re.IGNORECASE)
_END = (".", "?", "!", ":", "`")
_DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def problems(source: str, *, wants_module_docstring: bool = True) -> Iterator[tuple[int, str]]:
    """Yield the line and the problem of each docstring in a module that breaks the style."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, _DEFINITIONS):
            continue
        text, line = ast.get_docstring(node), getattr(node, "lineno", 1)
        if not text:
            if isinstance(node, ast.Module) and wants_module_docstring:
                yield line, "the module has no docstring"
            continue
        first = text.split("\n\n")[0].rstrip()
        if found := _QUESTIONS.match(first):
            yield line, f"starts with {found[0]}: begin with a verb or a noun"
        if _TIC.search(text):
            yield line, "has the sentence 'Pure.': leave it out"
        if not first.endswith(_END):
            yield line, "its first sentence has no end"


def broken(package: str) -> list[str]:
    """Return the problems of a package, as FILE:LINE: PROBLEM."""
    files = sorted((ROOT / package).rglob("*.py"))
    return [
        f"{path.relative_to(ROOT)}:{line}: {problem}"
        for path in files
        for line, problem in problems(
            path.read_text(encoding="utf-8"), wants_module_docstring=path.name != "__init__.py"
        )
    ]


@pytest.mark.parametrize("package", ["features", "worker", "tasks", "storage", "tests", "bench", "release"])
def test_docstrings_start_with_a_verb_or_a_noun_and_end(package: str) -> None:
    found = broken(package)
    assert not found, "\n".join(found)
