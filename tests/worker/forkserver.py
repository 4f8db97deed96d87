"""Processes that have docmill's libraries loaded and fork for each command: what a start costs is paid once.

A command, and a device process that it starts, runs in a process of its own, with its own environment, folder and
streams, from `main` to its exit code. Device processes that load models, and commands that do, are forked from
another server, which has the model libraries, too; it is started when the first is asked for. They read the
environment when they are imported, so that is done only where both environments agree. Where they differ in the model
hub alone, a third server has torch, and the rest is imported in the fork.

All processes of a run of the tests share these servers, which end when none of them is left. Run as a program it
serves a socket. A request is JSON, with the three streams; the answer is the process's number, and later its exit
code.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from tests.worker.fork_servers import (
    COMMANDS,
    LARGEST,
    UNLOADED,
    UNUSED_AFTER_S,
    WITH_MODELS,
    address_of,
    connected,
    environment_of_servers,
    is_used,
    listens,
    server_for,
    serving,
    used,
)

COMPUTING = {"search", "index", "--dry-run"}  # a command with one of these loads models by itself


@dataclass(frozen=True)
class How:
    """The folder and environment of a command; `with_models` says that its device processes load models."""

    cwd: Path
    environment: Mapping[str, str]
    with_models: bool


class Fork:
    """A process that a server forked, with what is used of `subprocess.Popen`."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self.pid = int(line.recv(16))
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, -N for signal N. Raises TimeoutExpired after so many seconds."""
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0)
            self.returncode = int(self._line.recv(16))
            self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The server of commands in a folder, and commands in its forks, which end with whoever asked for them."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._address = str(folder / COMMANDS)
        self._environment = environment_of_servers()
        self._used = used(folder)
        self._server: subprocess.Popen[bytes] | None = None
        with (folder / "starting").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if not listens(self._address):
                Path(self._address).unlink(missing_ok=True)
                self._server = serving(self._address, COMMANDS)
                connected(self._address).close()

    def run(self, arguments: Sequence[str], how: How, *, stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        """Run the command to its end: its exit code (-N for signal N), output and errors. Raises TimeoutExpired."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            code = self._start(arguments, how, (given, out, err), group=False).wait(timeout_s)
            for stream in (out, err):
                stream.seek(0)
            return code, out.read(), err.read()

    def start(self, arguments: Sequence[str], how: How, *, out: IO[bytes], err: IO[bytes]) -> Fork:
        """Start the command in a session of its own, without input."""
        with Path(os.devnull).open("rb") as nothing:
            return self._start(arguments, how, (nothing, out, err), group=True)

    def _start(
        self, arguments: Sequence[str], how: How, streams: tuple[IO[bytes], IO[bytes], IO[bytes]], *, group: bool
    ) -> Fork:
        asked = {
            "arguments": [self._program, *arguments],
            "cwd": str(how.cwd),
            "environment": dict(how.environment),
            "with_models": how.with_models,
            "group": group,
            "kills": True,
        }
        alike = server_for(how.environment, self._environment) == WITH_MODELS
        computes = alike and not COMPUTING.isdisjoint(arguments)
        address = address_of(WITH_MODELS, self._address) if computes else self._address
        return forked(address, asked, [stream.fileno() for stream in streams])

    def child(
        self, module: str, order: bytes, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Have a fork with the model libraries carry out an order to its end, in the server's environment or another.

        An environment may differ from the server's in what concerns the model hub.
        """
        kind = server_for(environment or self._environment, self._environment)
        assert kind is not None
        return run_child(partial(address_of, kind, self._address), module, order, environment or self._environment)

    def devices(self, supervisor: int) -> list[int]:
        """The device processes that were forked for a supervisor and live."""
        with connected(self._address) as line:
            line.send(json.dumps({"devices_of": supervisor}).encode())
            found: list[int] = json.loads(line.recv(LARGEST))
            return found

    def address(self) -> str:
        """Return the address of the server of commands."""
        return self._address

    def close(self) -> None:
        self._used.close()
        if self._server is not None:
            self._server.returncode = 0  # it may serve others, which is nothing to warn of


def forked(address: str, asked: Mapping[str, Any], streams: Sequence[int]) -> Fork:
    line = connected(address)
    socket.send_fds(line, [json.dumps(asked).encode()], streams)
    return Fork(line)


class Server:
    """Forks for each request, and says how each fork ended."""

    def __init__(self, address: str, kind: str) -> None:
        self._address = address
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address)
        self._listener.listen(64)
        self._lines: dict[int, socket.socket] = {}  # to whoever asked for a process, by its number
        self._asked: dict[int, dict[str, Any]] = {}
        self._kind = kind
        self._others: dict[str, subprocess.Popen[bytes]] = {}  # the other servers, by their addresses
        # A byte comes here when a fork has ended: no time goes by, and none is spent on looking.
        self._ended, self._ending = socket.socketpair()
        for end in (self._ended, self._ending):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ending.fileno(), warn_on_full_buffer=False)

    def serve(self) -> dict[str, Any] | None:
        """Returns in the forks with their requests, and in the server with None at the end."""
        while True:
            pids = {line: pid for pid, line in self._lines.items()}
            watched: list[Any] = [self._listener, self._ended, *pids]
            found = select.select(watched, [], [], UNUSED_AFTER_S)[0]
            if not pids and not found and not is_used(Path(self._address).parent):
                return None
            for ready in found:
                if ready is self._ended:
                    self._ended.recv(LARGEST)
                elif ready in pids:
                    self._hung_up(pids[ready])
                elif (asked := self._answer()) is not None:
                    return asked
            self._reap()

    def _hung_up(self, pid: int) -> None:
        """End the process of a client that is gone, if it asked for that."""
        asked = self._asked[pid]
        if asked["kills"]:
            with suppress(ProcessLookupError):
                (os.killpg if asked["group"] else os.kill)(pid, signal.SIGKILL)
        self._lines.pop(pid).close()

    def _answer(self) -> dict[str, Any] | None:
        """Answer a request; in a fork, return it."""
        line, _ = self._listener.accept()
        said, streams, _, _ = socket.recv_fds(line, LARGEST, 3)
        asked: dict[str, Any] = json.loads(said or b"{}")
        if "environment" not in asked:
            self._tell(line, asked)
            return None
        if pid := os.fork():
            self._lines[pid] = line
            self._asked[pid] = asked
            for stream in streams:
                os.close(stream)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if asked["group"]:
            os.setsid()
        line.send(str(os.getpid()).encode())
        for other in (self._listener, self._ended, self._ending, line, *self._lines.values()):
            other.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return asked

    def _tell(self, line: socket.socket, asked: Mapping[str, Any]) -> None:
        """Of which processes there are, and where device processes are forked."""
        with line:
            if "devices_of" in asked:
                found = [pid for pid, one in self._asked.items() if one.get("supervisor") == asked["devices_of"]]
                for address in self._others:
                    with connected(address) as other:
                        other.send(json.dumps(asked).encode())
                        found += json.loads(other.recv(LARGEST))
                line.send(json.dumps(found).encode())
            elif "server" in asked:
                address = str(Path(self._address).with_name(asked["server"].replace(" ", "-")))
                if address not in {self._address, *self._others}:
                    Path(address).unlink(missing_ok=True)  # of a server of an earlier session
                    self._others[address] = serving(address, asked["server"])
                line.send(address.encode())

    def _reap(self) -> None:
        while self._asked:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._asked.pop(pid, None)
            if (line := self._lines.pop(pid, None)) is not None:
                with line:
                    try:
                        line.send(str(os.waitstatus_to_exitcode(status)).encode())
                    except OSError:
                        continue


def become(asked: Mapping[str, Any]) -> None:
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


def fork_children(address: str, kind: str) -> None:
    """Have this process fork the processes that it would start from the server of a kind."""
    from docmill.worker import engines
    from docmill.worker.process import device_start
    from docmill.worker.submit import rehearsal

    where = partial(address_of, kind, address)
    device_start.start_device = partial(start_device, where)  # type: ignore[assignment]
    if kind != COMMANDS:
        engines.run_child = partial(run_child, where)  # type: ignore[attr-defined]
        rehearsal.run_child = partial(run_child, where)  # type: ignore[attr-defined]


def child_of(module: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the request for a fork that runs this module's `main` as a child of this process."""
    return {"arguments": [module], "module": module, "cwd": str(Path.cwd()), "environment": dict(environment)}


def start_device(where: Callable[[], str]) -> Fork:
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    # It ends by itself when its supervisor is gone, or not: that is tested.
    asked = {**child_of("docmill.worker.process.device"), "group": True, "kills": False, "supervisor": os.getpid()}
    process = forked(where(), asked, [theirs_in, theirs_out, 2])
    os.close(theirs_in)
    os.close(theirs_out)
    process.stdin = os.fdopen(ours_in, "wb")
    process.stdout = os.fdopen(ours_out, "rb")
    return process


def run_child(
    where: Callable[[], str], module: str, order: bytes, environment: Mapping[str, str] = os.environ, **_: Any
) -> subprocess.CompletedProcess[bytes]:
    """Have a child carry out an order to its end."""
    asked = {**child_of(module, environment), "group": False, "kills": True}
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(order)
        given.seek(0)
        code = forked(where(), asked, [given.fileno(), out.fileno(), err.fileno()]).wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([module], code, out.read(), err.read())


def main() -> None:
    address, kind = sys.argv[1:]
    sys.path[0] = ""  # as for an installed program, and not this file's folder
    sys.path.pop(0)
    from tests import fault_points
    from tests.worker.preloaded import preload

    gc.disable()  # nearly all that imports make stays
    preload(kind)
    assert sys.modules.keys().isdisjoint(UNLOADED[kind])
    gc.collect()
    gc.freeze()
    gc.enable()
    of_the_server = dict(os.environ)
    asked = Server(address, kind).serve()
    if asked is None:
        os._exit(0)
    become(asked)
    fault_points.arm()
    if "module" in asked:
        importlib.import_module(asked["module"]).main()
        end(0)
    children = server_for(os.environ, of_the_server) if asked["with_models"] else COMMANDS
    if children is not None:
        fork_children(address, children)
    end(ended())


def ended() -> int:
    """The exit code of the command."""
    from docmill.worker.cli import main as docmill

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
