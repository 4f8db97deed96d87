"""A command is one module and one line of the registry; help groups the commands and loads no module."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from docmill.storage.features import HEADINGS
from docmill.worker.cli import commands, docmill
from docmill.worker.cli.registry import OWN_COMMANDS, all_commands
from tests.worker.harness import ROOT

GREET = '''
"""`docmill greet`: say hello."""

import click

from docmill.worker.cli.printing import OK
from docmill.worker.cli.printing import answer


@click.command("greet", epilog="Example: docmill greet Ada")
@click.argument("name")
def greet_command(name: str) -> int:
    """Say hello to NAME."""
    answer(f"Hello, {name}.")
    return OK
'''
LINE = 'registry.OWN_COMMANDS["greet"] = registry._own(registry.FLEET, "Say hello to somebody.", "greet")'


def _docmill(folder: Path, *arguments: str) -> str:
    """Call docmill with the module and the line of another command."""
    program = "\n".join(
        [
            "from docmill.worker.cli import commands, main, registry",
            f"commands.__path__.append({str(folder)!r})",
            LINE,
            "main()",
        ]
    )
    called = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        called, env=os.environ | {"COLUMNS": "80"}, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def _sections(shown: str) -> dict[str, list[str]]:
    """The names of the commands below each heading of the help."""
    sections: dict[str, list[str]] = {}
    heading = ""
    for line in shown.partition("  Exit codes:")[0].splitlines():
        if line.endswith(":") and not line.startswith(" "):
            heading = line.removesuffix(":")
        elif line.startswith("  ") and line[2] != " ":
            sections.setdefault(heading, []).append(line.split()[0])
    return sections


def test_a_command_is_one_module_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "greet.py").write_text(GREET.lstrip(), encoding="utf-8")
    assert _docmill(tmp_path, "greet", "Ada") == "Hello, Ada.\n"
    shown = _docmill(tmp_path, "--help")
    assert "  greet       Say hello to somebody.\n" in shown
    assert "greet" in _sections(shown)["Fleet"]
    assert "--quiet" in _docmill(tmp_path, "greet", "--help")


def _parameters(group: click.Group) -> Iterator[click.Parameter]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from _parameters(command) if isinstance(command, click.Group) else command.params


def test_a_groups_help_cuts_no_sentence_on_80_columns() -> None:
    context = click.Context(docmill)
    for name in docmill.list_commands(context):
        group = docmill.get_command(context, name)
        if isinstance(group, click.Group):
            shown = group.get_help(click.Context(group, context, name, terminal_width=80))
            assert [line for line in shown.splitlines()[1:] if line.endswith("...")] == [], name


def test_every_number_and_every_name_of_a_list_is_refused_in_words_and_with_the_near_name() -> None:
    refused = 0
    for parameter in _parameters(docmill):
        type_ = parameter.type
        for one in type_.types if isinstance(type_, click.Tuple) else [type_]:
            if isinstance(one, click.IntRange | click.FloatRange):
                written, expected = (
                    "high",
                    r"^'high' is not a (whole |job )?number( (from|of at least|above) |;|$)",
                )
            elif isinstance(one, click.Choice):
                written, expected = f"{one.choices[0]}x", f"Did you mean {one.choices[0]}"
            else:
                continue
            convert: Any = one.convert  # which says that a number is a number already
            with pytest.raises(click.BadParameter, match=expected):
                convert(written, parameter, None)
            refused += 1
    assert refused > 50


def test_help_has_every_command_below_one_heading_at_80_columns(tmp_path: Path) -> None:
    shown = _docmill(tmp_path, "--help")
    assert max(map(len, shown.splitlines())) <= 80
    sections = _sections(shown)
    for heading in HEADINGS:
        named = [name for name, command in all_commands().items() if command.heading == heading]
        assert [name for name in sections[heading] if name != "greet"] == named
        own = [name for name in named if name in OWN_COMMANDS]
        assert named[: len(own)] == own, "commands of features stand behind docmill's own"
    for name, command in all_commands().items():
        assert f"  {name:<10}  {command.about}\n" in shown  # on one line


@pytest.mark.parametrize("folder", commands.__path__)
def test_every_module_of_a_command_is_registered(folder: str) -> None:
    modules = {file.stem for file in Path(folder).glob("*.py")} - {"__init__"}
    assert modules == {command.module.rpartition(".")[2] for command in OWN_COMMANDS.values()}
