"""A user's modules named `tasks`, `worker` and `storage` work in one process with docmill's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.worker.harness import Docmill, run_python

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


@pytest.mark.parametrize("imports", [(THEIRS, OURS), (OURS, THEIRS)])
def test_a_users_own_modules_and_docmill_work_in_one_process(tmp_path: Path, imports: tuple[str, str]) -> None:
    run_users_program(tmp_path, imports, {})


def run_users_program(folder: Path, imports: tuple[str, str], variables: Mapping[str, str]) -> None:
    """Run a program beside a module and two packages with the names of docmill's folders, as a user may have them."""
    for name in ("tasks", "storage/__init__", "storage/disks", "worker/__init__", "worker/queue"):
        file = folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text('NAME = "theirs"\n')
    program = USERS_PROGRAM.format(imports="\n".join(imports))
    completed = run_python(program, cwd=folder, env=Docmill(folder, variables).environment)
    assert completed.returncode == 0, completed.stderr
