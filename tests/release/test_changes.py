"""The files of changes/: the changelog can be made of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.worker.harness import ROOT

CHANGES = ROOT / "changes"
TYPES = [
    one["directory"] for one in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
]


def fragments() -> list[Path]:
    return sorted(file for file in CHANGES.iterdir() if file.name != "README.md")


def test_every_file_is_named_by_words_and_a_type() -> None:
    wrong = [file.name for file in fragments() if not re.fullmatch(rf"\+[\w-]+\.({'|'.join(TYPES)})\.md", file.name)]
    assert wrong == [], "changes/README.md says how files are named"


def test_every_file_is_one_entry_of_a_list_in_short_lines() -> None:
    for file in fragments():
        lines = file.read_text().splitlines()
        assert lines, file.name
        assert not re.match(r"[-*#\s]", lines[0]), f"{file.name}: the list's hyphen comes by itself"
        assert max(map(len, lines)) <= 120, file.name


def test_the_page_explains_every_type() -> None:
    assert re.findall(r"^\| `(\w+)` \|", (CHANGES / "README.md").read_text(), re.MULTILINE) == TYPES


def test_the_files_become_the_newest_section_and_the_rest_stays(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(CHANGES, tmp_path / "changes")
    (tmp_path / "changes" / "+sample.new.md").write_text("A sample\nof two lines.\n")
    before = (ROOT / "CHANGELOG.md").read_text()
    (tmp_path / "CHANGELOG.md").write_text(before)
    command = [sys.executable, "-m", "towncrier", "build", "--yes", "--version", "9.9.9", "--date", "2026-01-02"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    after = (tmp_path / "CHANGELOG.md").read_text()
    head, _, _ = before.partition("## ")
    assert after.startswith(f"{head}## 9.9.9 (2026-01-02)\n\n### ")
    assert "\n- A sample\n  of two lines.\n" in after
    assert after.endswith(before.removeprefix(head))
    assert after.count("\n- ") == before.count("\n- ") + len(fragments()) + 1
