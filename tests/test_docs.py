"""The documentation: its commands run, its links lead somewhere, and its reference pages follow from the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from docmill.storage.steps.conditions import list_flags
from docmill.worker.pipelines.schema import json_schema
from docs import generate
from tests.worker.harness import EXAMPLES, ROOT, Docmill, copy_packages

DOCS = ROOT / "docs"
WRITTEN = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "examples/README")),
    *sorted(DOCS.glob("*.md")),
]
FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`|<!--.*?-->", re.DOTALL | re.MULTILINE)
NEEDS = "needs "  # begins the title of a block of commands that a test machine cannot run
EXIT = "exit code "  # begins the title of a block whose last command ends with another code than 0
ELSEWHERE = "…"  # of an output: any text; alone on a line: any lines
# Pages whose commands take long, of tasks that have tests of their own; `make test-long` runs them.
LONG = {
    f"{name}.md"
    for name in ("answering", "classifying", "escalating", "extracting", "prompts", "summarizing", "tables")
}
MEASURED = re.compile(r"\d[\d,.]*(?= (?:s|min|tokens/s|a second|GB)\b)|[+-]?\d+\.\d+|[0-9a-f]{12}")


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page."""

    language: str
    title: str
    text: str


def fences(page: Path) -> list[Fence]:
    return [Fence(language, title, text) for language, title, text in FENCE.findall(page.read_text())]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a block, each with the lines of its output."""
    lines = text.splitlines()
    while lines:
        command = lines.pop(0)
        assert command.startswith("$ "), f"no command: {command}"
        while command.endswith("\\"):
            command = command[:-1] + lines.pop(0).strip()
        output = []
        while lines and not lines[0].startswith("$ "):
            output.append(lines.pop(0).rstrip())
        yield command[2:].split("    #")[0], output


def plain(text: str) -> str:
    """The text without what differs between machines and moments: times, rates, sums in floating point."""
    return " ".join(MEASURED.sub("0", text).split())


def has(output: list[str], wanted: list[str]) -> str | None:
    """Return the first wanted line that the output lacks, in the order of both."""
    found = iter(map(plain, output))
    for line in wanted:
        parts = [re.escape(plain(part)) for part in line.split(ELSEWHERE)]
        if line.strip() != ELSEWHERE and not any(re.search(" ?.*".join(parts), one) for one in found):
            return line
    return None


def runnable(page: Path) -> bool:
    return any(one.language == "console" and not one.title.startswith(NEEDS) for one in fences(page))


PAGES = [
    pytest.param(page, marks=pytest.mark.long if page.name in LONG else (), id=page.name)
    for page in WRITTEN
    if runnable(page)
]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {"COLUMNS": "80"})
    (tmp_path / "examples").symlink_to(EXAMPLES)
    for fence in fences(page):
        if fence.title and fence.language != "console":
            (tmp_path / fence.title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / fence.title).write_text(fence.text)
    for fence in fences(page):
        if fence.language != "console" or fence.title.startswith(NEEDS):
            continue
        code = int(fence.title.removeprefix(EXIT)) if fence.title else 0
        for command, wanted in commands(fence.text):
            output = run(docmill, command, code)
            assert has(output, wanted) is None, f"$ {command}\n" + "\n".join(output)


def run(docmill: Docmill, command: str, code: int) -> list[str]:
    """Run a command and return the lines that it prints; `cat FILE |` before it gives it the file."""
    words = shlex.split(command)
    stdin = b""
    if words[0] == "cat" and words[2] == "|":
        stdin = (docmill.folder / words[1]).read_bytes()
        del words[:3]
    assert words[0] == "docmill", f"{command}: not a command of docmill; say what it needs in the block's title"
    done = docmill(*words[1:], code=code, stdin=stdin)
    return [*done.stderr.splitlines(), *done.stdout.splitlines()]


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
    "worker/cli/registry.py": {"COMMANDS = {\n": '    "greet": _own(FLEET, "Say hello to somebody.", "greet"),\n'},
}


def test_what_a_page_adds_works_with_one_module_and_one_line_each(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    copy_packages(tree)
    for module in fences(DOCS / "extending.md"):
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
    docmill("run", "notes.bars", "--task", "sentences", "--min-chars", "5", code=4)
    assert [(result["id"], result["text"]) for result in docmill.results(1)] == [("n", "2"), ("m", "1")]
    assert [flag.partition("@")[0] for result in docmill.results(1) for flag in result["flags"]] == ["invalid_utf8"]
    assert "the line has no |" in docmill("failures", 1).stdout
    docmill("results", 1, "--out", "out.tsv")
    assert [line.split("\t")[0] for line in (tmp_path / "out.tsv").read_text().splitlines()] == ["n", "m"]
    assert docmill.json("greet", "Ada") == {"greeting": "Hello Ada"}


def test_every_block_has_a_language_and_commands_are_written_so_that_they_are_tried() -> None:
    languages = {fence.language: page.name for page in WRITTEN for fence in fences(page)}
    assert languages.keys().isdisjoint({"", "sh", "bash", "shell"}), languages


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", one).lower()).strip()) for one in found}


def test_every_link_leads_to_a_file_and_a_heading_of_it() -> None:
    for page in WRITTEN:
        for file, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", CODE.sub("", page.read_text())):
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{page.name}: {file}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {file}#{anchor}"


def test_every_test_that_the_pages_name_is_there() -> None:
    there = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    for page in DOCS.glob("*.md"):
        text = page.read_text()
        assert set(re.findall(r"(?<!::)\b(test_\w+)", text)) <= there, page.name
        for module, function in re.findall(r"`(test_\w+)::(test_\w+)`", text):
            [path] = (ROOT / "tests").rglob(f"{module}.py")
            assert f"\ndef {function}(" in path.read_text(), f"{page.name}: {module}::{function}"
        for path in re.findall(r"`(tests/[\w/]+\.py)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_page_of_flags_has_every_flag_that_can_be_asked_for() -> None:
    rows = re.findall(r"^\| (`.+?) \|", (DOCS / "flags.md").read_text(), re.MULTILINE)
    named = {name.partition(":")[0] for row in rows for name in re.findall(r"`([\w:]+)`", row)}
    assert named == {*list_flags()}


def test_the_page_of_pipeline_files_has_every_key() -> None:
    tables = json_schema()
    keys = {key for table in (tables, *tables["$defs"].values()) for key in table.get("properties", ())}
    page = (DOCS / "pipeline-file.md").read_text()
    assert {key for key in keys if f"`{key}`" not in page} <= set(re.findall(r"^## \[+(\w+)", page, re.MULTILINE))


def test_every_page_is_in_the_sites_navigation() -> None:
    listed = set(re.findall(r'"([\w-]+\.md)"', (ROOT / "zensical.toml").read_text()))
    assert listed == {page.name for page in DOCS.glob("*.md")}


def test_the_reference_pages_are_what_the_code_says() -> None:
    for name, text in generate.pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"{name}: make reference"
