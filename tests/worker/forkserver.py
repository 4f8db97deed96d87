"""Servers that have loaded docmill's libraries and fork a process for each command, so that imports cost time once.

A command, and each device process that it starts, runs in a fork with its own environment, folder and streams, from
`main` to its exit code. Device processes and commands that load models are forks of a second server, which has the
model libraries and starts when the first of them is requested. These libraries read the environment when they are
imported, so the second server is used only where both environments agree. If they differ in the model hub alone, a
third server has torch, and the fork imports the rest.

All processes of a test run share these servers. They end when no such process is left. As a program, this module
serves a socket: a request is JSON with three streams, and the answer is the fork's process id, then its exit code.
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
    connect,
    is_used,
    listens,
    mark_used,
    server_environment,
    server_for,
    start_server,
)

COMPUTING = {"search", "index", "--dry-run"}  # a command with one of these loads models by itself


@dataclass(frozen=True)
class Context:
    """The folder and environment of a command; `with_models` says that its device processes load models."""

    cwd: Path
    environment: Mapping[str, str]
    with_models: bool


class Fork:
    """A process that a server forked, with the part of the interface of `subprocess.Popen` that tests use."""

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
        """Return the exit code, -N for signal N. Raises TimeoutExpired after `timeout` seconds."""
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
    """Commands in forks of a folder's servers. A fork ends with the process that requested it."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._address = str(folder / COMMANDS)
        self._environment = server_environment()
        self._mark = mark_used(folder)
        self._server: subprocess.Popen[bytes] | None = None
        with (folder / "starting").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if not listens(self._address):
                Path(self._address).unlink(missing_ok=True)
                self._server = start_server(self._address, COMMANDS)
                connect(self._address).close()

    def run(
        self, arguments: Sequence[str], context: Context, *, stdin: bytes, timeout_s: float
    ) -> tuple[int, bytes, bytes]:
        """Run a command to its end. Return its exit code (-N for signal N), output and errors.

        Raises TimeoutExpired.
        """
        address, request = self._request(arguments, context, group=False)
        return run_fork(address, request, stdin, timeout_s)

    def start(self, arguments: Sequence[str], context: Context, *, out: IO[bytes], err: IO[bytes]) -> Fork:
        """Start a command in a session of its own, without input."""
        with Path(os.devnull).open("rb") as nothing:
            address, request = self._request(arguments, context, group=True)
            return request_fork(address, request, [nothing.fileno(), out.fileno(), err.fileno()])

    def _request(self, arguments: Sequence[str], context: Context, *, group: bool) -> tuple[str, dict[str, Any]]:
        """Return the address of the server that forks a command, and the request."""
        request = {
            "arguments": [self._program, *arguments],
            "cwd": str(context.cwd),
            "environment": dict(context.environment),
            "with_models": context.with_models,
            "group": group,
            "kills": True,
        }
        alike = server_for(context.environment, self._environment) == WITH_MODELS
        computes = alike and not COMPUTING.isdisjoint(arguments)
        address = address_of(WITH_MODELS, self._address) if computes else self._address
        return address, request

    def run_child(
        self, module: str, order: bytes, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the `main` of a module in a fork that has the model libraries, with an order as its input.

        Its environment may differ from the server's in the model hub's variables.
        """
        kind = server_for(environment or self._environment, self._environment)
        assert kind is not None
        return run_child(partial(address_of, kind, self._address), module, order, environment or self._environment)

    def devices(self, supervisor: int) -> list[int]:
        """Return the process ids of a supervisor's device processes that live."""
        with connect(self._address) as line:
            line.send(json.dumps({"devices_of": supervisor}).encode())
            pids: list[int] = json.loads(line.recv(LARGEST))
            return pids

    def address(self) -> str:
        """Return the address of the server of commands."""
        return self._address

    def close(self) -> None:
        self._mark.close()
        if self._server is not None:
            self._server.returncode = 0  # it may still serve others: no ResourceWarning


def request_fork(address: str, request: Mapping[str, Any], streams: Sequence[int]) -> Fork:
    line = connect(address)
    socket.send_fds(line, [json.dumps(request).encode()], streams)
    return Fork(line)


def run_fork(
    address: str, request: Mapping[str, Any], stdin: bytes, timeout_s: float | None = None
) -> tuple[int, bytes, bytes]:
    """Run a fork to its end. Return its exit code (-N for signal N), output and errors."""
    with tempfile.TemporaryFile() as stdin_file, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin_file.write(stdin)
        stdin_file.seek(0)
        code = request_fork(address, request, [stdin_file.fileno(), out.fileno(), err.fileno()]).wait(timeout_s)
        for stream in (out, err):
            stream.seek(0)
        return code, out.read(), err.read()


class Server:
    """Forks a process for each request, and sends its exit code to the client."""

    def __init__(self, address: str, kind: str) -> None:
        self._address = address
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address)
        self._listener.listen(64)
        self._lines: dict[int, socket.socket] = {}  # to clients, by the process ids of their forks
        self._requests: dict[int, dict[str, Any]] = {}
        self._kind = kind
        self._servers: dict[str, subprocess.Popen[bytes]] = {}  # the other servers, by their addresses
        # A byte arrives here when a fork has ended, so that `select` returns at once.
        self._wakeup, self._wakeup_end = socket.socketpair()
        for end in (self._wakeup, self._wakeup_end):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)

    def serve(self) -> dict[str, Any] | None:
        """Serve until nobody uses the server, then return None. In a fork, return its request."""
        while True:
            pids = {line: pid for pid, line in self._lines.items()}
            watched: list[Any] = [self._listener, self._wakeup, *pids]
            readable = select.select(watched, [], [], UNUSED_AFTER_S)[0]
            if not pids and not readable and not is_used(Path(self._address).parent):
                return None
            for ready in readable:
                if ready is self._wakeup:
                    self._wakeup.recv(LARGEST)
                elif ready in pids:
                    self._hung_up(pids[ready])
                elif (request := self._answer()) is not None:
                    return request
            self._reap()

    def _hung_up(self, pid: int) -> None:
        """Kill the fork of a client that is gone, if its request says so."""
        request = self._requests[pid]
        if request["kills"]:
            with suppress(ProcessLookupError):
                (os.killpg if request["group"] else os.kill)(pid, signal.SIGKILL)
        self._lines.pop(pid).close()

    def _answer(self) -> dict[str, Any] | None:
        """Answer a request; in a fork, return it."""
        line, _ = self._listener.accept()
        message, streams, _, _ = socket.recv_fds(line, LARGEST, 3)
        request: dict[str, Any] = json.loads(message or b"{}")
        if "environment" not in request:
            self._reply(line, request)
            return None
        if pid := os.fork():
            self._lines[pid] = line
            self._requests[pid] = request
            for stream in streams:
                os.close(stream)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if request["group"]:
            os.setsid()
        line.send(str(os.getpid()).encode())
        for connection in (self._listener, self._wakeup, self._wakeup_end, line, *self._lines.values()):
            connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return request

    def _reply(self, line: socket.socket, request: Mapping[str, Any]) -> None:
        """Answer with the device processes of a supervisor, or with the address of another server."""
        with line:
            if "devices_of" in request:
                pids = [
                    pid
                    for pid, own_request in self._requests.items()
                    if own_request.get("supervisor") == request["devices_of"]
                ]
                for address in self._servers:
                    with connect(address) as server:
                        server.send(json.dumps(request).encode())
                        pids += json.loads(server.recv(LARGEST))
                line.send(json.dumps(pids).encode())
            elif "server" in request:
                address = str(Path(self._address).with_name(request["server"].replace(" ", "-")))
                if address not in {self._address, *self._servers}:
                    Path(address).unlink(missing_ok=True)  # of a server of an earlier session
                    self._servers[address] = start_server(address, request["server"])
                line.send(address.encode())

    def _reap(self) -> None:
        while self._requests:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._requests.pop(pid, None)
            if (line := self._lines.pop(pid, None)) is not None:
                with line:
                    try:
                        line.send(str(os.waitstatus_to_exitcode(status)).encode())
                    except OSError:
                        continue


def become(request: Mapping[str, Any]) -> None:
    """Set this process's environment, folder, arguments and streams as a new interpreter would have them."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    time.tzset()
    sys.argv = request["arguments"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


def fork_children(address: str, kind: str) -> None:
    """Make this process request forks from a kind of server where it would start processes."""
    from docmill.worker import engines
    from docmill.worker.process import device_start
    from docmill.worker.submit import rehearsal

    where = partial(address_of, kind, address)
    device_start.start_device = partial(start_device, where)  # type: ignore[assignment]
    if kind != COMMANDS:
        engines.run_child = partial(run_child, where)  # type: ignore[attr-defined]
        rehearsal.run_child = partial(run_child, where)  # type: ignore[attr-defined]


def child_request(module: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the request for a fork that runs this module's `main` as a child of this process."""
    return {"arguments": [module], "module": module, "cwd": str(Path.cwd()), "environment": dict(environment)}


def start_device(where: Callable[[], str]) -> Fork:
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    # Tests check that a device process ends without its supervisor, so the server must not kill it.
    request = {
        **child_request("docmill.worker.process.device"),
        "group": True,
        "kills": False,
        "supervisor": os.getpid(),
    }
    process = request_fork(where(), request, [theirs_in, theirs_out, 2])
    os.close(theirs_in)
    os.close(theirs_out)
    process.stdin = os.fdopen(ours_in, "wb")
    process.stdout = os.fdopen(ours_out, "rb")
    return process


def run_child(
    where: Callable[[], str], module: str, order: bytes, environment: Mapping[str, str] = os.environ, **_: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run the `main` of a module in a fork, with an order as its input."""
    request = {**child_request(module, environment), "group": False, "kills": True}
    return subprocess.CompletedProcess([module], *run_fork(where(), request, order))


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
    request = Server(address, kind).serve()
    if request is None:
        os._exit(0)
    become(request)
    fault_points.arm()
    if "module" in request:
        importlib.import_module(request["module"]).main()
        end(0)
    children = server_for(os.environ, of_the_server) if request["with_models"] else COMMANDS
    if children is not None:
        fork_children(address, children)
    end(run_command())


def run_command() -> int:
    """Run the command, and return its exit code."""
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
    """Exit as an interpreter does, but free no memory, which would copy the pages that forks share."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
