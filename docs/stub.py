"""The types of the Python API for type checkers: a stub, since `docmill.py` loads its parts on their first use."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import create_model
from pydantic.fields import FieldInfo

from docmill.tasks import kinds
from docmill.tasks.kinds.options import key as option_key
from docmill.worker.api import options
from docmill.worker.submit.options import Work

ROOT = Path(__file__).parent.parent
# The parts of the stub in its order, by their files.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "worker/api/errors.py": ("Error", "Unreachable", "TimedOut"),
    "worker/api/documents.py": ("ArrowTable", "Documents"),
    "storage/core/specs.py": ("Spec",),
    "storage/leases/stall_diagnosis.py": ("Cause",),
    "storage/results/step_status.py": ("StepStatus",),
    "storage/results/time_left.py": ("Unknown", "TimeLeft"),
    "storage/results/time_use.py": ("TimeUse",),
    "storage/results/status.py": ("JobStatus",),
    "worker/api/hits.py": ("Hit",),
    "worker/api/duplicates.py": ("Duplicates",),
    "worker/api/job.py": ("Job",),
    "worker/api/pipelines.py": ("Rows", "Pipelines"),
    "worker/api/mill.py": ("Folder", "Mill", "run", "search", "connect"),
}
_HEAD = '''\
"""Written by `make reference` from worker/api. Change it there."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias, TypedDict, Unpack

import pandas
import pyarrow
'''
# Classes without a name in `docmill`, and the class whose name there is another.
_RENAMED = {
    name: f"_{name}"
    for name in (
        "ArrowTable",
        "Documents",
        "Spec",
        "Cause",
        "StepStatus",
        "Unknown",
        "TimeLeft",
        "TimeUse",
        "Rows",
        "Duplicates",
    )
}
_RENAMED |= {"Pipelines": "_Pipelines", "Folder": "_Folder", "JobStatus": "Status"}
_KEPT_DECORATORS = ("property", "classmethod", "staticmethod")
_DUNDER = frozenset({"__enter__", "__exit__", "__arrow_c_stream__"})
_NAMED = ("model", "corpus")  # options that the functions have as parameters
_SEARCH_NAMED = ("top",)
_JSON_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


def stub() -> str:
    """Return the stub."""
    trees = {file: ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in _PARTS}
    found = {name: _find(trees[file], name) for file, names in _PARTS.items() for name in names}
    mill = found["Mill"]
    assert isinstance(mill, ast.ClassDef)
    parts = [_HEAD, _options(), _search_options(mill)]
    parts += [ast.unparse(_Public().visit(one)) + "\n" for one in found.values()]
    return "\n".join(parts)


def _find(tree: ast.Module, name: str) -> ast.stmt:
    for one in tree.body:
        if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == name:
            return one
        if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == name:
            return one
    raise LookupError(name)


class _Public(ast.NodeTransformer):
    """Keeps what a user may use of a class or function: no bodies, no private names."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(_RENAMED.get(node.id, node.id))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        said, *rest = node.body
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        kept = [one for one in rest if not isinstance(one, functions) or _public(one.name)]
        node.body = [said, *(self.visit(one) for one in (*_attributes(node), *kept))]
        node.bases = [self.visit(one) for one in node.bases]
        node.name = _RENAMED.get(node.name, node.name)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.target, node.annotation = self.visit(node.target), self.visit(node.annotation)
        if isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias":
            assert node.value is not None
            node.value = self.visit(node.value)
        elif node.value is not None:
            node.value = ast.Constant(...)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._declare(node)
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        self._declare(node)
        return node

    def _declare(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        said = node.body[:1] if ast.get_docstring(node) is not None else []
        node.body = [*said, ast.Expr(ast.Constant(...))]
        node.decorator_list = [one for one in node.decorator_list if ast.unparse(one).startswith(_KEPT_DECORATORS)]
        given = node.args
        if given.kwarg is not None:
            assert given.kwarg.arg == "options"
            given.kwarg.annotation = ast.Name(
                "Unpack[_SearchOptions]" if node.name == "search" else "Unpack[_Options]"
            )
            both = zip(given.kwonlyargs, given.kw_defaults, strict=True)
            kept = [(one, default) for one, default in both if one.arg not in _OPTION_NAMES]
            given.kwonlyargs, given.kw_defaults = [one for one, _ in kept], [default for _, default in kept]
        self.generic_visit(node)


def _public(name: str) -> bool:
    return name in _DUNDER or not name.startswith("_")


def _attributes(node: ast.ClassDef) -> Iterator[ast.stmt]:
    """Yield the public attributes that a class gets in its `__init__`, with their types."""
    init = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    for one in [] if init is None else init.body:
        if not isinstance(one, ast.Assign) or not isinstance(one.targets[0], ast.Attribute):
            continue
        name, value = one.targets[0].attr, one.value
        if not name.startswith("_"):
            assert init is not None
            types = {given.arg: given.annotation for given in init.args.args}
            kind = value.func if isinstance(value, ast.Call) else types[ast.unparse(value)]
            assert kind is not None
            yield ast.AnnAssign(ast.Name(name), kind, None, 1)


def _fields() -> dict[str, FieldInfo]:
    """Return the options of a call by their names in Python."""
    of_kinds = {options.python_name(option_key(name, field)): field for name, field in kinds.OPTIONS.items()}
    return {name: of_kinds.get(name) or Work.model_fields[name] for name in options.NAMES if name not in _NAMED}


_OPTION_NAMES = frozenset(_fields())


def _options() -> str:
    rows = [f"    {name}: {_type(field)}" for name, field in _fields().items()]
    return "class _Options(TypedDict, total=False):\n" + "\n".join(rows) + "\n"


def _search_options(mill: ast.ClassDef) -> str:
    search = next(one for one in mill.body if isinstance(one, ast.FunctionDef) and one.name == "search")
    kept = [one for one in search.args.kwonlyargs if one.arg not in _SEARCH_NAMED]
    rows = [f"    {one.arg}: {ast.unparse(one.annotation)}" for one in kept if one.annotation is not None]
    return "class _SearchOptions(TypedDict, total=False):\n" + "\n".join(rows) + "\n"


def _type(field: FieldInfo) -> str:
    """Return the Python type of an option's values, by its JSON Schema."""
    model = create_model("One", value=(field.annotation, field))
    schema = model.model_json_schema()["properties"]["value"]
    found = dict.fromkeys(_of_json(one) for one in schema.get("anyOf", [schema]))
    return " | ".join(dict.fromkeys([*found, "None"]))


def _of_json(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    if schema["type"] == "array":
        return f"Sequence[{_of_json(schema['items'])}]"
    if schema["type"] == "object":
        of = schema.get("additionalProperties")
        return f"Mapping[str, {_of_json(of) if isinstance(of, dict) else 'Any'}]"
    return _JSON_TYPES[schema["type"]]
