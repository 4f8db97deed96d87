"""People have modules named `tasks`, `worker` and `storage`, too: theirs and docmill's work in one process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.worker.harness import Docmill

THEIRS, OURS = "import storage.disks, tasks, worker.queue", "import docmill"
USERS_PROGRAM = """
{imports}
assert tasks.NAME == worker.queue.NAME == storage.disks.NAME == "theirs"
table = docmill.run(["A text."], "embed", model="null", store="store", progress=False)
assert table["status"].to_pylist() == ["done"]
from docmill.tasks.kinds import NAMES
import storage.disks, tasks, worker.queue
assert "embed" in NAMES and tasks.NAME == worker.queue.NAME == storage.disks.NAME == "theirs"
"""


def write_namesakes(folder: Path) -> None:
    """Write a module and two packages with the names of docmill's folders, as a user may have them."""
    for name in ("tasks", "storage/__init__", "storage/disks", "worker/__init__", "worker/queue"):
        file = folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text('NAME = "theirs"\n')


@pytest.fixture
def folder_with_namesakes(tmp_path: Path) -> Path:
    write_namesakes(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "text": "one"}\n')
    return tmp_path


@pytest.mark.parametrize("variables", [{"PYTHONPATH": "."}, pytest.param({}, marks=pytest.mark.long)])
def test_a_folder_with_modules_of_the_same_names_changes_nothing(
    folder_with_namesakes: Path, variables: dict[str, str]
) -> None:
    docmill = Docmill(folder_with_namesakes, variables)
    docmill.from_anew = True
    docmill("run", "embed", "corpus.jsonl", "--model", "null")
    assert docmill.json("status", 1)["done"] == 1


@pytest.mark.parametrize("imports", [(THEIRS, OURS), (OURS, THEIRS)])
def test_a_users_own_modules_and_docmill_work_in_one_process(
    folder_with_namesakes: Path, imports: tuple[str, str]
) -> None:
    run_users_program(folder_with_namesakes, imports, {})


def run_users_program(folder: Path, imports: tuple[str, str], variables: Mapping[str, str]) -> None:
    (folder / "program.py").write_text(USERS_PROGRAM.format(imports="\n".join(imports)))
    environment = Docmill(folder, variables).environment
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
