"""An interrupted run leaves no process behind, and the same command continues it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path
from subprocess import PIPE
from typing import IO

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from tests.kinds import KINDS
from tests.worker.harness import DEADLINE_S, DOCMILL, EXAMPLES, Docmill, Running, kill_group, until

TEXTS = 260  # several batches, of which a stop lets one end
RUN = ("run", "translate", EXAMPLES / "descriptions.jsonl", "--model", "null@8000")


def _processes_of(folder: Path) -> list[str]:
    """Return the commands of processes that run in this folder or with a home in it."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = str(folder).encode() in (process / "environ").read_bytes()
            if ours or folder in (process / "cwd").readlink().parents or folder == (process / "cwd").readlink():
                commands.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return commands


def _start(docmill: Docmill) -> tuple[Database, Running]:
    docmill("jobs")  # makes the store
    database = Database(f"sqlite:///{docmill.folder}/home/docmill.db", kinds=KINDS)
    process = docmill.start(*RUN)
    until(lambda: _states(database) & {"running"}, "a shard is running")
    return database, process


def _states(database: Database) -> set[str]:
    return set(database.values(select(Shard.state)))


def _assert_continued(docmill: Docmill) -> None:
    status = docmill.json(*RUN)
    assert (status["id"], status["state"], status["done"]) == (1, "done", status["texts"])
    assert len(docmill.results(1)) == TEXTS


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_stop_gives_everything_back_and_says_how_to_go_on(embedded: Docmill, number: signal.Signals) -> None:
    database, process = _start(embedded)
    os.killpg(process.pid, number)
    assert process.wait(DEADLINE_S) == 130
    assert "running" not in _states(database)
    database.close()
    assert _processes_of(embedded.folder) == []
    log = embedded.log("run")
    assert "the same command" in log
    assert log.count("Interrupted") == 1
    assert "Traceback" not in log
    _assert_continued(embedded)


def _unread(pipe: IO[bytes] | None) -> int:
    """Return how many bytes of a pipe nobody has read yet."""
    assert pipe is not None
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.usefixtures("interrupt")
@pytest.mark.parametrize("command", ["run", pytest.param("enqueue", marks=pytest.mark.long)])
def test_a_stop_while_a_pipe_is_read_ends_as_any_other(embedded: Docmill, command: str) -> None:
    arguments = [DOCMILL, command, "embed", "-", "--model", "null"]
    log = embedded.folder / "said"
    with (
        log.open("wb") as err,
        subprocess.Popen(arguments, cwd=embedded.folder, env=embedded.environment, stdin=PIPE, stderr=err) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(b'{"text": "one"}\n' * 20)
        process.stdin.flush()
        until((embedded.folder / "home" / "docmill.db").exists, "it reads")
        until(lambda: _unread(process.stdin) == 0, "it waits for more")
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
    stderr = log.read_text()
    assert "Interrupted" in stderr
    assert "Fatal" not in stderr
    assert "Traceback" not in stderr
    assert "the same command" not in stderr


def test_a_killed_run_leaves_no_process_behind_and_is_carried_on_at_once(embedded: Docmill) -> None:
    embedded.environment["DOCMILL_LEASE_S"] = "600"  # the next run sees that whoever held the shards is gone
    database, process = _start(embedded)
    kill_group(process)
    database.close()
    until(lambda: not _processes_of(embedded.folder), "its server and its device process end too")
    _assert_continued(embedded)
