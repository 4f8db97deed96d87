"""People have modules named `tasks`, `worker` and `storage` too; docmill's processes load its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.worker.harness import ROOT, Docmill


@pytest.fixture
def folder_with_namesakes(tmp_path: Path) -> Path:
    for name in ("tasks", "storage", "worker"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the {name} of somebody else')\n")
    return tmp_path


def test_a_folder_with_modules_of_the_same_names_changes_nothing(folder_with_namesakes: Path) -> None:
    docmill = Docmill(folder_with_namesakes, {"DOCMILL_LOG_LEVEL": "info"})
    docmill.from_anew = True
    (folder_with_namesakes / "corpus.jsonl").write_text('{"id": "1", "text": "one"}\n')
    docmill("run", "corpus.jsonl", "--task", "embed", "--model", "null")
    assert docmill.json("status", 1)["done"] == 1


def test_a_pythonpath_with_modules_of_the_same_names_changes_nothing(folder_with_namesakes: Path) -> None:
    paths = [str(folder_with_namesakes), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    docmill = Docmill(folder_with_namesakes, {"PYTHONPATH": os.pathsep.join(paths)})
    (folder_with_namesakes / "corpus.jsonl").write_text('{"id": "1", "text": "one"}\n')
    docmill("run", "corpus.jsonl", "--task", "embed", "--model", "null")
    docmill("run", "corpus.jsonl", "--task", "embed", "--model", "null", "--dry-run")
    assert docmill.json("status", 1)["done"] == 1
