"""The commands of `make run` show what docmill can do."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from examples.quickstart import STEPS
from tests.worker.harness import EXAMPLES, Docmill


@pytest.mark.slow
def test_each_command_of_the_quick_start_shows_something_found_and_nothing_doubtful(tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {"COLUMNS": "80"})
    (tmp_path / "examples").symlink_to(EXAMPLES)
    done = [docmill(*shlex.split(command)) for _, command in STEPS]
    shown = "\n".join(one.stdout + one.stderr for one in done)
    for text in ("eqonomize", "default-mysql-client", "games 0.9", "C++ (language)", "write to [EMAIL]"):
        assert text in shown
    assert "nothing found" not in shown
    assert not any(line.endswith("doubtful.") and not line.startswith("0 of") for line in shown.splitlines())
