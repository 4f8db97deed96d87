"""A process that has docmill's libraries loaded and forks for each command: what a start costs is paid once.

The command runs in a process of its own, with its own environment, folder and streams, from `worker.cli.main` to its
exit code. What reads the environment when it is imported is not loaded before the fork.

Run as a program it serves a socket until the end of its standard input. A request is JSON, with the three streams.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LARGEST = 1 << 20
BEFORE = (
    *("worker.cli.admin", "worker.cli.completion", "worker.cli.corpus", "worker.cli.faults", "worker.cli.jobs"),
    *(
        "worker.cli.pipeline",
        "worker.cli.session",
        "worker.cli.show",
        "worker.cli.steer",
        "worker.cli.work",
        "worker.broker",
    ),
    *("worker.enqueue", "worker.settings", "storage.collection", "storage.corpora", "storage.database"),
    *("storage.ingest", "storage.jobs", "storage.migrations", "storage.pipelines", "storage.readers"),
    *("storage.removal", "storage.results", "storage.status", "storage.tracing", "alembic.command", "psycopg"),
)
NOT_BEFORE = ("torch", "transformers", "huggingface_hub", "datasets", "fsspec")  # they read the environment


class Forks:
    """The server, and commands that run in its forks."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._folder = tempfile.TemporaryDirectory(prefix="docmill-test-fork-")
        self._address = str(Path(self._folder.name) / "socket")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCMILL_")}
        command = [sys.executable, __file__, self._address]
        self._server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, cwd=self._folder.name)

    def run(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: bytes, timeout_s: float
    ) -> tuple[int, bytes, bytes]:
        """Run the command to its end: its exit code (-N for signal N), output and errors. Raises TimeoutExpired."""
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            self._connected() as line,
        ):
            given.write(stdin)
            given.seek(0)
            asked = {"arguments": [self._program, *arguments], "cwd": str(cwd), "environment": dict(env)}
            socket.send_fds(line, [json.dumps(asked).encode()], [given.fileno(), out.fileno(), err.fileno()])
            line.settimeout(timeout_s)
            try:
                code = int(line.recv(16))
            except TimeoutError:
                raise subprocess.TimeoutExpired([self._program, *arguments], timeout_s) from None
            for stream in (out, err):
                stream.seek(0)
            return code, out.read(), err.read()

    def _connected(self) -> socket.socket:
        deadline = time.monotonic() + 60
        while True:
            line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                line.connect(self._address)
            except OSError:
                line.close()
                assert self._server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return line

    def close(self) -> None:
        self._server.communicate()
        self._folder.cleanup()


def serve(address: str) -> dict[str, Any] | None:
    """Fork for each request. Returns in the forks with their requests, and in the server with None at the end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    running: dict[int, socket.socket] = {}
    while True:
        lines = {line: pid for pid, line in running.items()}
        watched: list[Any] = [0, listener, *lines]
        for ready in select.select(watched, [], [], 0.01 if running else None)[0]:
            if ready == 0:
                return None
            if ready in lines:  # whoever asked has hung up
                os.kill(lines[ready], signal.SIGKILL)
            elif ready is listener:
                line, _ = listener.accept()
                said, streams, _, _ = socket.recv_fds(line, LARGEST, 3)
                if pid := os.fork():
                    running[pid] = line
                    for stream in streams:
                        os.close(stream)
                    continue
                for other in (listener, line, *lines):
                    other.close()
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                found: dict[str, Any] = json.loads(said)
                return found
        _reap(running)


def _reap(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as line:
            try:
                line.send(str(os.waitstatus_to_exitcode(status)).encode())
            except OSError:
                continue


def become(asked: dict[str, Any]) -> None:
    """Take on the request's environment, folder and arguments, and streams as a new interpreter has them."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    time.tzset()
    sys.argv = asked["arguments"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


def main() -> None:
    import importlib

    sys.path[0] = ""  # as for an installed program, and not this file's folder
    sys.path.pop(0)
    for module in BEFORE:
        importlib.import_module(module)
    assert not sys.modules.keys() & {*NOT_BEFORE}, sys.modules.keys() & {*NOT_BEFORE}
    gc.collect()
    gc.freeze()
    asked = serve(sys.argv[1])
    if asked is None:
        os._exit(0)
    become(asked)
    end(ended())


def ended() -> int:
    """The exit code of the command."""
    from worker.cli import main as docmill

    try:
        docmill()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(code: int) -> None:
    """End as an interpreter does, but for taking itself apart, which would copy all that a fork shares."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
