"""The documentation: its links lead somewhere, and its reference pages follow from the code."""

from __future__ import annotations

import re
from pathlib import Path

from docmill.storage.steps.conditions import list_flags
from docmill.tasks.kinds import OPTIONS
from docmill.tasks.kinds.options import flag
from docmill.worker.pipelines.schema import json_schema
from docs import generate
from docs.outputs import PAGES, fences
from tests.worker.harness import ROOT

DOCS = ROOT / "docs"
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`|<!--.*?-->", re.DOTALL | re.MULTILINE)


def test_every_block_has_a_language_and_commands_are_in_console_blocks() -> None:
    languages = {fence.language: page.name for page in PAGES for fence in fences(page)}
    assert languages.keys().isdisjoint({"", "sh", "bash", "shell"}), languages


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading).lower()).strip())
        for heading in headings
    }


def test_every_link_leads_to_a_file_and_a_heading_of_it() -> None:
    for page in PAGES:
        for file, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", CODE.sub("", page.read_text())):
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{page.name}: {file}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {file}#{anchor}"


def test_the_page_about_flags_names_every_flag() -> None:
    rows = re.findall(r"^\| (`.+?) \|", (DOCS / "flags.md").read_text(), re.MULTILINE)
    documented = {name.partition(":")[0] for row in rows for name in re.findall(r"`([\w:]+)`", row)}
    assert documented == {*list_flags()}


def test_the_page_of_pipeline_files_has_every_key_but_the_options_of_tasks() -> None:
    tables = json_schema()
    keys = {key for table in (tables, *tables["$defs"].values()) for key in table.get("properties", ())}
    keys -= {flag(name, field).removeprefix("--") for name, field in OPTIONS.items()}
    page = (DOCS / "pipeline-file.md").read_text()
    assert {key for key in keys if f"`{key}`" not in page} <= set(re.findall(r"^## \[+(\w+)", page, re.MULTILINE))


def test_every_page_is_in_the_sites_navigation() -> None:
    listed = set(re.findall(r'"([\w-]+\.md)"', (ROOT / "zensical.toml").read_text()))
    assert listed == {page.name for page in DOCS.glob("*.md")}


def test_the_reference_pages_match_the_code() -> None:
    for name, text in generate.pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"{name}: make reference"
