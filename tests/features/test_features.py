"""A feature is a folder and a line: without it docmill works as before, and a distribution can bring another."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import pytest

from docmill.storage.features import Feature, built_in_features
from docs.outputs import fences
from tests.tasks.real_lines import half_and_more
from tests.worker.harness import ROOT, Docmill, copy_packages

INIT = """
from docmill.storage.features import FLEET, Command, Feature

FEATURE = Feature(
    "greeting",
    commands={"greet": Command(FLEET, "Say hello to somebody.", "greeting.greet")},
    kinds=["greeting.kinds:SENTENCES"],
    backends=["greeting.backend:ROW"],
    readers={".bars": "greeting.reader:rows"},
    checks={"shouting": "greeting.checks:SHOUTING"},
)
"""
BACKEND = '''
"""Writes each text in capitals."""

from docmill.tasks.backends.registry import Offer, Row
from docmill.tasks.backends.static import StaticLoop
from docmill.tasks.batching import Budget
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Generated, Head
from docmill.tasks.windows.windows import Encoded


class CapitalsBackend:
    def __init__(self, assignment):
        self.traits = Traits()
        self.limit_tokens = 512
        self._device = assignment.device
        self._loop = StaticLoop(self._compute, Budget(tokens=512, rows=8))

    def encode(self, texts):
        return [Encoded(max(1, len(text.split())), text) for text in texts]

    def run(self, source):
        return self._loop.run(source)

    def runtime(self):
        return {"device": self._device, "precision": "none", "backend": "capitals", "versions": {}}

    def close(self):
        pass

    def _compute(self, items):
        return [Generated(item.encoded.features.upper(), item.tokens) for item in items]


ROW = Row("capitals", "json", (Offer("greeting.backend:CapitalsBackend", Head.SEQ2SEQ_TEXT, {Family.SEQ2SEQ, None}),))
'''
CHECKS = '''
"""Doubts outputs without a small letter."""

from docmill.tasks.checks.base import Check, Finding


def find(given, output, context):
    if output.isupper():
        yield Finding("shouting", "it has no small letter", 0, len(output))


SHOUTING = Check("shouting", "the output has no small letter", find)
'''


def install(site: Path, name: str, modules: Mapping[str, str], feature: str) -> Docmill:
    """Return a docmill beside an installed distribution of these modules, whose entry point is a feature."""
    (site / name).mkdir(parents=True)
    for module, text in modules.items():
        (site / name / f"{module}.py").write_text(text.lstrip())
    about = site / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[docmill.features]\n{name} = {feature}\n")
    return Docmill(site.parent, {"PYTHONPATH": str(site)})


def run_a_job(docmill: Docmill) -> None:
    (docmill.folder / "corpus.jsonl").write_text('{"id": "1", "text": "one"}\n')
    docmill("run", "embed", "corpus.jsonl", "--model", "null", "--out", "out.jsonl")
    assert json.loads((docmill.folder / "out.jsonl").read_text())["id"] == "1"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of docmill, compiled once for all tests that take a feature out of it."""
    tree = tmp_path_factory.mktemp("tree")
    copy_packages(tree)
    return tree


@half_and_more([feature.name for feature in built_in_features()])
def test_docmill_works_without_a_feature_of_its_own(name: str, tree: Path, tmp_path: Path) -> None:
    feature = next(built_in for built_in in built_in_features() if built_in.name == name)
    folder, listing = tree / "features" / feature.name, tree / "storage" / "features.py"
    text, line = listing.read_text(), f'    "docmill.features.{feature.name}",\n'
    assert text.count(line) == 1
    listing.write_text(text.replace(line, ""))
    folder.rename(tmp_path / "aside")
    try:
        docmill = Docmill(tmp_path, {"PYTHONPATH": str(tree)})
        run_a_job(docmill)
        for command in feature.commands:
            assert f"There is no command '{command}'." in docmill(command, code=2).stderr
    finally:
        listing.write_text(text)
        (tmp_path / "aside").rename(folder)


@pytest.mark.parametrize("feature", built_in_features(), ids=lambda feature: feature.name)
def test_the_core_mentions_no_feature_but_where_the_feature_says_so(feature: Feature) -> None:
    about = import_module(f"docmill.features.{feature.name}").__doc__ or ""
    commands = "|".join(feature.commands) or "no command"
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "features" / feature.name).glob("*.py"))
    own = re.findall(r"^class ([A-Z][a-z]+[A-Z]\w+)", code, re.MULTILINE)
    own += [f'"{table}"' for table in re.findall(r'__tablename__ = "(\w+)"', code)]
    patterns = [
        rf"\bfeatures[./]{feature.name}\b",
        rf"\bdocmill ({commands})\b",
        *(rf"(?<!\w){name}(?!\w)" for name in own),
    ]
    words = re.compile("|".join(patterns))
    listing = ROOT / "storage" / "features.py"
    files = [path for folder in ("worker", "tasks", "storage") for path in (ROOT / folder).rglob("*.*")]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in {".py", ".j2"}}
    mentions = {path.relative_to(ROOT) for path, text in texts.items() if path != listing and words.search(text)}
    assert {path for path in mentions if f"`{path}`" not in about} == set()


def test_a_distribution_brings_a_kind_a_backend_a_reader_a_check_and_a_command(tmp_path: Path) -> None:
    page = {Path(fence.title).stem: fence.text for fence in fences(ROOT / "docs" / "extending.md") if fence.title}
    modules = {"__init__": INIT, "kinds": page["sentences"], "reader": page["bars"]}
    modules |= {"greet": page["greet"], "backend": BACKEND, "checks": CHECKS}
    docmill = install(tmp_path / "site", "greeting", modules, "greeting:FEATURE")
    assert docmill.json("greet", "Ada") == {"greeting": "Hello Ada"}
    assert "Say hello to somebody." in docmill("--help").stdout
    assert "--quiet" in docmill("greet", "--help").stdout
    (tmp_path / "notes.bars").write_text("n|Yes. This is a longer sentence. Is it?\n")
    docmill("run", "sentences", "notes.bars", "--min-chars", "5")
    assert [(result["id"], result["text"]) for result in docmill.results(1)] == [("n", "2")]
    model = ROOT / "examples" / "models" / "synopsis-ddtp"
    docmill("run", "summarize", "notes.bars", "--model", model, "--backend", "capitals")
    [result] = docmill.results(2)
    assert (result["text"], "shouting" in result["flags"]) == ("YES. THIS IS A LONGER SENTENCE. IS IT?", True)
    assert [result["id"] for result in docmill.results(2, "--flagged")] == ["n"]


@pytest.mark.parametrize(
    ("feature", "reason"),
    [
        ("json:loads", "is not a Feature: json:loads"),
        ("wrong:GONE", "cannot be loaded (AttributeError: module 'wrong' has no attribute 'GONE')"),
        (
            "wrong.more:FEATURE",
            "cannot be loaded (TypeError: Feature.__init__() got an unexpected keyword argument 'kind')",
        ),
    ],
)
def test_an_entry_point_that_is_no_feature_is_named(feature: str, reason: str, tmp_path: Path) -> None:
    modules = {
        "__init__": "",
        "more": 'from docmill.storage.features import Feature\n\nFEATURE = Feature("a", kind=[])\n',
    }
    docmill = install(tmp_path / "site", "wrong", modules, feature)
    message = docmill("strange", code=2).stderr
    assert message.startswith(f"docmill: the entry point wrong of docmill.features, of wrong 1.0, {reason}")
    assert message.count("\n") == 1


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_the_fast_tests_of_the_core_pass_without_any_feature(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    copy_packages(tree)
    for folder in (tree / "features").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    listing = tree / "storage" / "features.py"
    listing.write_text(re.sub(r"BUILT_IN = \(\n.*?\n\)", "BUILT_IN = ()", listing.read_text(), flags=re.DOTALL))
    for path in ROOT.iterdir():
        if path.is_dir() and not path.name.startswith(".") and not (tree / path.name).exists():
            shutil.copytree(path, tree / path.name, ignore=shutil.ignore_patterns("__pycache__", "features"))
        elif path.is_file():
            shutil.copy(path, tree)
    core = [f"tests/{name}" for name in ("frozen", "storage", "tasks", "worker")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "fast and not long", "-p", "no:cacheprovider", *core],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "docmill.features" not in done.stdout
