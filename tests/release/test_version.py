"""The version, the addresses and the README that a build has: those of the clone, or what is known without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.harness import ROOT

BUILT_OF = ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files of which a build says its version, in a folder without git."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for name in BUILT_OF:
        shutil.copy(ROOT / name, folder)
    return folder


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def committed(folder: Path) -> None:
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")


def version(folder: Path, **variables: str) -> str:
    command = [sys.executable, "-W", "error", "-m", "hatchling", "version"]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | variables)
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


def test_a_tagged_commit_has_the_version_of_its_tag_and_later_ones_come_after_it(tree: Path) -> None:
    committed(tree)
    git(tree, "tag", "v1.2.0")
    assert version(tree) == "1.2.0"
    git(tree, "commit", "--allow-empty", "--message", "second")
    assert version(tree).startswith("1.2.1.dev1+g")
    git(tree, "tag", "nightly-9")  # no tag of a release
    assert version(tree).startswith("1.2.1.dev1+g")


def test_outside_git_the_version_is_unknown_unless_it_is_said(tree: Path) -> None:
    assert version(tree) == "0.0.0"
    assert version(tree, SETUPTOOLS_SCM_PRETEND_VERSION="1.3.0") == "1.3.0"  # as the Dockerfile says it


def test_a_source_distribution_keeps_what_it_was_built_with(tree: Path) -> None:
    urls = "Project-URL: Homepage, https://example.org/docmill"
    (tree / "PKG-INFO").write_text(f"Metadata-Version: 2.4\nName: docmill\nVersion: 1.2.0\n{urls}\n\n# Überschrift\n")
    assert version(tree) == "1.2.0"
    metadata = read_metadata(tree)
    assert metadata["urls"] == {"Homepage": "https://example.org/docmill"}
    assert metadata["readme"]["text"] == "# Überschrift\n"


def read_metadata(folder: Path) -> dict[str, Any]:
    told = subprocess.run([sys.executable, "-m", "hatchling", "metadata"], cwd=folder, capture_output=True, text=True)
    metadata: dict[str, Any] = json.loads(told.stdout)
    return metadata


@pytest.mark.parametrize(
    "remote",
    [
        "https://example.org/team/docmill",
        "https://name:secret@example.org/team/docmill.git",
        "git@example.org:team/docmill.git",
        "ssh://git@example.org:2222/team/docmill.git",
    ],
)
def test_addresses_and_absolute_links_are_those_of_the_remote(tree: Path, remote: str) -> None:
    (tree / "README.md").write_text("![a run](docs/run.svg) [Search](docs/search.md#indexes) [rival](https://x.org)")
    committed(tree)
    git(tree, "remote", "add", "origin", remote)
    metadata, at = read_metadata(tree), "https://example.org/team/docmill"
    assert metadata["urls"]["Homepage"] == at
    image, link, other = metadata["readme"]["text"].split(") ")
    assert image.startswith(f"![a run]({at}/raw/")
    assert link.startswith(f"[Search]({at}/blob/")
    assert link.endswith("/docs/search.md#indexes")
    assert other == "[rival](https://x.org)"
