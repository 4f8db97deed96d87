"""The examples for schedulers are what their page shows, and every command in them exists."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from docmill.worker.cli import docmill as group
from docs.outputs import fences
from tests.worker.harness import DOCMILL, EXAMPLES, ROOT, Docmill

FOLDER = EXAMPLES / "schedulers"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.is_file())


def test_the_page_names_each_file_and_shows_some_as_they_are() -> None:
    blocks = {fence.title: fence.text for fence in fences(ROOT / "docs" / "schedulers.md") if fence.title}
    assert blocks == {name: (FOLDER / name).read_text() for name in blocks}
    assert {name for name in FILES if name not in (ROOT / "docs" / "schedulers.md").read_text()} == set()


def commands(name: str) -> Iterator[list[str]]:
    """Yield the literal words of each docmill command in an example: its name and its options."""
    text = (FOLDER / name).read_text()
    if not name.endswith(".py"):
        yield from (line.split() for line in re.findall(r'"\$docmill" ([^)|;\n]*)', text))
        return
    for call in ast.walk(ast.parse(text, name)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "docmill":
            yield [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]


@pytest.mark.parametrize("name", [name for name in FILES if name != "crontab"])
def test_every_command_of_an_example_exists_with_its_options(name: str) -> None:
    calls = list(commands(name))
    assert {words[0] for words in calls} >= {"enqueue", "status", "results"}
    for words in calls:
        command = group.get_command(click.Context(group), words[0])
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words[1])
        assert command is not None, words
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


@pytest.mark.long
def test_the_script_for_cron_runs_and_has_the_jobs_exit_code(tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {})
    source, out = tmp_path / "articles.jsonl", tmp_path / "out.jsonl"
    source.write_text("no record\n")  # nothing for a worker to do

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(FOLDER / "nightly.sh"), *map(str, arguments)]
        environment = docmill.environment | {"DOCMILL": DOCMILL}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    completed = run(source, out)
    assert (completed.returncode, completed.stdout) == (4, ""), completed.stderr
    assert out.read_text() == ""
    refused = run(tmp_path / "nowhere.jsonl", out)
    assert refused.returncode == 2
    assert "nowhere.jsonl: no such file or folder" in refused.stderr
