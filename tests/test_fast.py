"""The fast subset holds tests, and none that starts a server or a command, or loads a model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT, run

import pytest

from tests.fast import is_fast
from tests.faults.fleet import Fleet

ROOT = Path(__file__).resolve().parent.parent
PLANTED = """
import pytest


@pytest.mark.parametrize("fixture", ["postgres_url", "pgvector_url", "redis_url"])
def test_of_a_server(request, fixture):
    request.getfixturevalue(fixture)


def test_of_a_command(tmp_path):
    from tests.worker import harness

    harness.Docmill(tmp_path, {})


def test_of_a_server_process(tmp_path):
    from tests.faults import servers

    servers.RedisServer(tmp_path).start()


def test_of_nothing(sqlite_url):
    pass
"""


def fast(*options: str | Path) -> tuple[int, str]:
    """Run pytest on the fast subset; its exit code and what it said."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", "-m", "fast", *map(str, options)]
    done = run(command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True)
    return done.returncode, done.stdout


def test_a_test_is_fast_unless_it_asks_for_more_than_a_file() -> None:
    path = Path("tests/storage/leases/test_policy.py")

    def judged(file: Path = path, **more: object) -> bool:
        given = {"markers": [], "fixtures": ["tmp_path", "sqlite_url"], "params": ["sqlite", 7], "names": {"os": os}}
        return is_fast(file, **{**given, **more})  # type: ignore[arg-type]

    assert judged()
    assert judged(markers=["parametrize"])
    assert not judged(markers=["slow"])
    assert not judged(markers=["faults"])
    assert not judged(fixtures=["redis_url", "_redis_or_reason"])
    assert not judged(fixtures=["bench"])
    assert not judged(params=["postgresql"])
    assert not judged(names={"M": Fleet})
    assert not judged(names={"torch": os})
    assert not judged(Path("tests/storage/readers/test_dataset.py"))


def test_the_fast_subset_holds_tests_of_files_and_sqlite_alone() -> None:
    files = ("tests/storage/leases/test_policy.py", "tests/storage/steps/test_steps.py", "tests/worker/test_fleet.py")
    code, said = fast("--collect-only", "-q", *files)
    found = [line for line in said.splitlines() if "::" in line]
    assert code == 0
    assert {line.partition("::")[0] for line in found} == {*files[:2]}
    assert any("[sqlite]" in line for line in found)
    assert not any("postgresql" in line for line in found)


@pytest.mark.long
def test_a_test_of_the_fast_subset_that_starts_something_fails(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text(PLANTED)
    code, said = fast("-p", "tests.conftest", tmp_path, "--rootdir", tmp_path, "-c", os.devnull)
    assert code == 1
    assert "5 failed, 1 passed" in said or "2 failed, 1 passed, 3 errors" in said, said
    assert said.count("a test of the fast subset (tests/fast.py) asks for") >= 5
