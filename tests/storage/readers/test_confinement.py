"""A confined program that a hostile document took over can write, send, start and read nothing."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.readers import confinement
from docmill.storage.readers.confinement import Confined
from docmill.storage.readers.errors import BrokenStream
from tests.faults.servers import missing
from tests.storage.readers.intruder import ATTEMPTS, NETWORK

PROGRAMS = ("extract_process", "arrow", "dataset", "sheets")
ASKED: dict[str, Any] = {"name": "a", "bytes": 0, "options": {}, "path": "a/b", "local": False}
SCOPES = 6  # the version of Landlock that knows of signals


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """An intruder's knowledge of the machine: files that its user may change, and servers that answer."""
    held = (tmp_path / "held").resolve()
    held.mkdir()
    (held / "file").write_bytes(b"as it was")
    (held / "removable").touch()
    abstract = f"\0docmill-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        unix, nameless = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        short = Path(os.path.relpath(held / "s"))
        unix.bind(str(short) if len(str(held)) > 90 else str(held / "s"))
        nameless.bind(abstract)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for server in (unix, nameless):
            server.listen(64)
        with_secret = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        parent = stack.enter_context(
            subprocess.Popen(with_secret, stdin=subprocess.PIPE, env=os.environ | {"PASSWORD": "secret"})
        )
        stack.callback(parent.kill)
        yield {
            "file": str(held / "file"),
            "unix": str(held / "s"),
            "abstract": abstract,
            "tcp": list(tcp.getsockname()),
            "parent": parent.pid,
        }
        assert parent.poll() is None or confinement.landlock_abi() < SCOPES
    assert (held / "file").read_bytes() == b"as it was"
    assert sorted(path.name for path in held.iterdir()) == ["file", "removable", "s"]


def attempt_all(machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Start an intruder. Return the outcome of each of its attempts."""
    monkeypatch.setenv("DOCMILL_TEST_INTRUDER", json.dumps(machine))
    process = Confined("tests.storage.readers.intruder", environment=frozenset(("DOCMILL_TEST_INTRUDER", "HOME")))
    try:
        process.send(ASKED)
        head, _ = process.receive(1 << 20)
    finally:
        process.close()
    outcomes: dict[str, str] = head["outcomes"]
    assert len(outcomes) == 2 * len(ATTEMPTS)
    return outcomes


def list_done(outcomes: dict[str, str]) -> set[str]:
    """Return the attempts that succeeded, in the first thread or in another."""
    return {name.removesuffix(" in a thread") for name, outcome in outcomes.items() if outcome == "done"}


def require_sandbox() -> None:
    """Skip a test on a kernel without Landlock or seccomp."""
    if not confinement.landlock_abi():
        missing("this kernel has no Landlock")
    if not confinement.has_seccomp():
        missing("there is no libseccomp, or no seccomp in this kernel")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_compromised_reader_can_change_read_and_reach_nothing(
    program: str, machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_sandbox()
    allowed = set(NETWORK) if program == "dataset" else set()  # the reader of data sets reads from a hub
    assert list_done(attempt_all(machine | {"program": program}, monkeypatch)) == allowed


@pytest.mark.parametrize(
    "answer", ["[]\n", "no JSON\n", '{"size": 1.5}\nab', '{"%s": 1, "size": 0}\n' % ("x" * 100_000)]
)
def test_an_invalid_frame_ends_the_process(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMILL_TEST_INTRUDER", json.dumps({"program": "arrow", "answer": answer}))
    process = Confined("tests.storage.readers.intruder", environment=frozenset(("DOCMILL_TEST_INTRUDER",)))
    process.send(ASKED)
    with closing(process), pytest.raises(BrokenStream):
        process.receive(10)


def test_a_confined_process_ends_with_a_parent_that_was_killed() -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    code = f"""
from docmill.storage.readers.confinement import Confined
process = Confined("tests.storage.readers.intruder", environment=frozenset(("DOCMILL_TEST_INTRUDER",)))
process.send({ASKED})
process.receive(10)
print(process._process.pid, flush=True)
process.receive(10)
"""
    environment = os.environ | {"DOCMILL_TEST_INTRUDER": json.dumps({"program": "arrow", "answer": '{"size": 0}\n'})}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        confined = os.pidfd_open(pid)
        parent.kill()
    ended, _, _ = select.select([confined], [], [], 30)
    os.close(confined)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    assert ended


def test_a_user_without_an_entry_in_passwd_is_confined_too() -> None:
    code = """
import pwd
pwd.getpwuid = lambda _: {}["no such user"]
from docmill.storage.readers.confinement import restrict_files
restrict_files()
"""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_a_process_that_starts_a_confined_one_cannot_be_inspected_by_its_user() -> None:
    code = """
import ctypes
from docmill.storage.readers.confinement import Confined
libc = ctypes.CDLL(None)
before = libc.prctl(3, 0, 0, 0, 0)
process = Confined("docmill.storage.readers.arrow")
process.send({"options": {}})
process.close()
print(before, libc.prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
"""
    if sys.platform != "linux":
        pytest.skip("only Linux keeps a process from being looked into")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.split() == ["1", "0"]
