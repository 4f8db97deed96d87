"""The commands of the documentation print what the pages show, and the example of an extension works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docs.outputs import PAGES, fences, is_alike, outputs
from tests.worker.harness import ROOT, Docmill, copy_packages

# Pages whose commands take long, of tasks that have tests of their own; `make test-long` runs them.
LONG = {
    f"{name}.md"
    for name in ("answering", "classifying", "escalating", "extracting", "prompts", "summarizing", "tables")
}
RUNNING = [
    pytest.param(page, marks=pytest.mark.long if page.name in LONG else (), id=page.name)
    for page in PAGES
    if any(fence.runs for fence in fences(page))
]


@pytest.mark.parametrize("page", RUNNING)
def test_the_commands_of_a_page_print_what_it_shows(page: Path) -> None:
    for _, commands in outputs(page):
        for command, lines in commands:
            text = "\n".join(lines)
            assert is_alike(command.shown, lines), f"make outputs PAGES={page}\n$ {command.line}\n{text}"


LINES = {  # what is added to each registry, after a line that is there
    "tasks/kinds/__init__.py": {
        "from docmill.tasks.kinds.redact import REDACT\n": "from docmill.tasks.kinds.sentences import SENTENCES\n",
        "    SUMMARIZE,\n": "    SENTENCES,\n",
    },
    "storage/readers/registry.py": {
        "FILES: dict[str, Records | Document | Archive] = {\n": (
            '    ".bars": Records("docmill.storage.readers.bars:rows"),\n'
        )
    },
    "storage/writers/__init__.py": {
        "import excel": ", tsv",
        "    excel.WRITER,\n": "    tsv.WRITER,\n",
    },
    "worker/cli/__init__.py": {"COMMANDS = {\n": '    "greet": _own(FLEET, "Say hello to somebody.", "greet"),\n'},
}


def test_each_example_of_an_extension_works_with_one_module_and_one_line(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    copy_packages(tree)
    for module in fences(ROOT / "docs" / "extending.md"):
        if module.title.endswith(".py"):
            (tree / module.title).write_text(module.text)
    for name, lines in LINES.items():
        registry = (tree / name).read_text()
        for there, added in lines.items():
            assert there in registry
            registry = registry.replace(there, there + added, 1)
        (tree / name).write_text(registry)
    checked = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    assert subprocess.run(checked, cwd=tree, check=False).returncode == 0
    records = [b"\xef\xbb\xbfn|Yes. This is a longer sentence. Is it?", b"no record", b"m|This has a \xff in it."]
    (tmp_path / "notes.bars").write_bytes(b"\n".join(records))
    docmill = Docmill(tmp_path, {"PYTHONPATH": str(tree)})
    docmill("run", "sentences", "notes.bars", "--min-chars", "5", code=4)
    assert [(result["id"], result["text"]) for result in docmill.results(1)] == [("n", "2"), ("m", "1")]
    assert [flag.partition("@")[0] for result in docmill.results(1) for flag in result["flags"]] == ["invalid_utf8"]
    assert "the line has no |" in docmill("failures", 1).stdout
    docmill("results", 1, "--out", "out.tsv")
    assert [line.split("\t")[0] for line in (tmp_path / "out.tsv").read_text().splitlines()] == ["n", "m"]
    assert docmill.json("greet", "Ada") == {"greeting": "Hello Ada"}
