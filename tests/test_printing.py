"""Commands print only through functions that make text harmless."""

from __future__ import annotations

import ast

from tests.worker.harness import ROOT


def test_commands_print_only_through_functions_that_make_text_harmless() -> None:
    allowed = {("printing.py", "echo"), ("terminal.py", "echo"), ("completion.py", "echo")}
    for file in [*(ROOT / "worker" / "cli").rglob("*.py"), *(ROOT / "worker").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"echo", "secho"}
            ):
                assert (file.name, node.func.attr) in allowed, f"{file.name}:{node.lineno}"
