"""A feature is a folder and a line: without it docmill works as before, and a distribution can bring another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from docmill.storage.features import BUILT_IN, built_in_features
from tests.worker.harness import Docmill, copy_packages

COMMAND = '''
"""`docmill greet`: say hello."""

import click

from docmill.worker.cli.printing import OK, answer


@click.command("greet", epilog="Example: docmill greet Ada")
@click.argument("name")
def greet_command(name: str) -> int:
    """Say hello to NAME."""
    answer(f"Hello, {name}.")
    return OK
'''
FEATURE = """
from docmill.storage.features import FLEET, Command, Feature

FEATURE = Feature("greeting", commands={"greet": Command(FLEET, "Say hello to somebody.", "greeting.command")})
"""


def run_a_job(docmill: Docmill) -> None:
    (docmill.folder / "corpus.jsonl").write_text('{"id": "1", "text": "one"}\n')
    docmill("run", "corpus.jsonl", "--task", "embed", "--model", "null", "--out", "out.jsonl")
    assert json.loads((docmill.folder / "out.jsonl").read_text())["id"] == "1"


@pytest.mark.parametrize("module", BUILT_IN)
def test_docmill_works_without_a_feature_of_its_own(module: str, tmp_path: Path) -> None:
    name = module.rpartition(".")[2]
    [feature] = [feature for feature in built_in_features() if feature.name == name]
    copy_packages(tmp_path / "tree")
    shutil.rmtree(tmp_path / "tree" / "features" / name)
    listing = tmp_path / "tree" / "storage" / "features.py"
    text = listing.read_text()
    assert text.count(f'    "{module}",\n') == 1
    listing.write_text(text.replace(f'    "{module}",\n', ""))
    docmill = Docmill(tmp_path, {"PYTHONPATH": str(tmp_path / "tree")})
    run_a_job(docmill)
    listed = {line.split()[0] for line in docmill("--help").stdout.splitlines() if line.startswith("  ")}
    assert not listed & feature.commands.keys()
    for command in feature.commands:
        assert f"There is no command '{command}'." in docmill(command, code=2).stderr


def test_a_distribution_brings_a_command(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "greeting").mkdir(parents=True)
    (site / "greeting" / "__init__.py").write_text(FEATURE)
    (site / "greeting" / "command.py").write_text(COMMAND.lstrip())
    (site / "greeting-1.0.dist-info").mkdir()
    (site / "greeting-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (site / "greeting-1.0.dist-info" / "entry_points.txt").write_text(
        "[docmill.features]\ngreeting = greeting:FEATURE\n"
    )
    docmill = Docmill(tmp_path, {"PYTHONPATH": str(site)})
    assert docmill("greet", "Ada").stdout == "Hello, Ada.\n"
    assert "Say hello to somebody." in docmill("--help").stdout
    assert "--quiet" in docmill("greet", "--help").stdout
    run_a_job(docmill)


def test_an_entry_point_that_is_no_feature_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "site" / "wrong-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[docmill.features]\nwrong = json:loads\n")
    docmill = Docmill(tmp_path, {"PYTHONPATH": str(folder.parent)})
    assert (
        "docmill: the entry point wrong of docmill.features, of wrong 1.0, is no Feature: json:loads\n"
        in docmill("strange", code=2).stderr
    )
