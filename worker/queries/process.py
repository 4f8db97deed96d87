"""The query process: it stays after a search, with its model loaded, and embeds the texts of the next searches.

`worker.queries.client` starts it with a socket that listens already and a lock that it holds as long as it lives. It
reads no store and no settings, prints nothing, serves one client at a time, and ends when it has been idle.

A message is its length in four bytes and that many bytes. A client sends a request as JSON. The answer is JSON, then
the vectors as float32; empty messages before it say that the process still works.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import platform
import signal
import socket
import struct
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.tasks.backends import Backend
    from docmill.tasks.outputs import Failure, Vector

MOST_BYTES = 1 << 28  # of a message
READ_S = 10.0  # a client sends its request at once
BEAT_S = 1.0
_LENGTH = struct.Struct(">I")
_PEER = struct.Struct("3i")  # process, user, group


@dataclass(frozen=True)
class Opening:
    """The device, backend and folders with which a query process opens models."""

    device: str
    backend: str
    models_dir: str | None
    cache_dir: str

    def key(self, environment: Mapping[str, str]) -> str:
        """Return a digest of everything that can change a vector: these, the installed code, and the variables that
        libraries read."""
        told = [asdict(self), code_in(Path(__file__).resolve().parents[2]), sorted(environment.items())]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def code_in(root: Path) -> list[object]:
    """Return what changes when docmill's packages in `root`, Python or an installed package change."""
    files = [file for name in ("worker", "tasks", "storage") for file in sorted((root / name).rglob("*.py"))]
    own = [(str(file), found.st_mtime_ns, found.st_size) for file in files for found in [file.stat()]]
    packages = {sysconfig.get_path(name) for name in ("purelib", "platlib")}  # an installation changes their folders
    stamps = [(name, Path(name).stat().st_mtime_ns) for name in sorted(packages) if Path(name).is_dir()]
    return [version("docmill"), sys.version, sys.prefix, platform.node(), own, stamps]


def send(line: socket.socket, message: bytes) -> None:
    """Send a message. Raises OSError."""
    if len(message) > MOST_BYTES:
        raise OSError("the message is too long")
    line.sendall(_LENGTH.pack(len(message)) + message)


def receive(line: socket.socket) -> bytes:
    """Return the next message. Raises OSError, also at the end of the line."""
    (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size))
    if length > MOST_BYTES:
        raise OSError("the message is too long")
    return _exactly(line, length)


def _exactly(line: socket.socket, size: int) -> bytes:
    parts, lacking = [], size
    while lacking:
        part = line.recv(min(lacking, 1 << 20))
        if not part:
            raise ConnectionResetError("the other side is gone")
        parts.append(part)
        lacking -= len(part)
    return b"".join(parts)


def is_own(line: socket.socket) -> bool:
    """Return True if the other side is a process of the same user, as far as the system says."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, user, _ = _PEER.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return bool(user == os.geteuid())


class Server:
    """Answers one client after another, until it is idle, fails, or makes room for a process with another key."""

    def __init__(self, listener: socket.socket, key: str, opening: Opening) -> None:
        from docmill.tasks.engine.engine import Engine
        from docmill.worker.engines import settled

        self._listener = listener
        self._key = key
        self._opening = opening
        self._file = Path(listener.getsockname())
        self._made = self._file.stat()
        self._n_opened = 0
        self._engine = Engine(settled(self._open), max_specs=1)

    def serve(self, idle_s: float) -> None:
        """Return when no client came for the time that the last one allowed, `idle_s` at first."""
        self._engine.start()
        self._idle_s = idle_s
        goes_on = True
        while goes_on:
            self._listener.settimeout(self._idle_s)
            try:
                line, _ = self._listener.accept()
            except TimeoutError:
                return
            with line, suppress(OSError):  # the client is gone
                line.settimeout(READ_S)
                goes_on = not is_own(line) or self._answer(line)

    def leave(self) -> None:
        """Take no more clients. A socket file that another process put in the place of ours stays."""
        with suppress(OSError):
            if os.path.samestat(self._made, self._file.stat()):
                self._file.unlink()
        self._listener.close()

    def _answer(self, line: socket.socket) -> bool:
        """Answer a request; False if the process has to end."""
        from docmill.storage.core.specs import Spec

        request = json.loads(receive(line))
        if request["key"] != self._key:
            if request["replaces"]:
                self.leave()
            send(line, json.dumps({"other": True}).encode())
            return not request["replaces"]
        self._idle_s = request["idle_s"]
        try:
            with _beating(line):
                outputs = self._embed(Spec(**request["spec"]), request["texts"])
        except Exception as error:  # the client computes by itself, and says what is wrong
            self.leave()
            send(line, json.dumps({"failed": type(error).__name__}).encode())
            return False
        head, vectors = packed(outputs)
        send(line, json.dumps({**head, "pid": os.getpid(), "opened": self._n_opened}).encode())
        send(line, vectors)
        return True

    def _embed(self, spec: Spec, texts: Sequence[str]) -> list[Vector | Failure]:
        from docmill.tasks.engine import queries

        return queries.embed(self._engine, spec, texts)

    def _open(self, spec: Spec) -> Backend:
        from docmill.tasks.engine.backend_factory import open_backend
        from docmill.tasks.errors import CannotServe
        from docmill.tasks.specs import pinning

        cache_dir = Path(self._opening.cache_dir)
        if not pinning.here(pinning.Pinned(spec.model, spec.revision), cache_dir=cache_dir):
            raise CannotServe("The model is not on this machine, and a download belongs where a person sees it.")
        models_dir = None if self._opening.models_dir is None else Path(self._opening.models_dir)
        opened = open_backend(
            spec,
            device=self._opening.device,
            models_dir=models_dir,
            cache_dir=cache_dir,
            backend=self._opening.backend,
        )
        self._n_opened += 1
        return opened


@contextmanager
def _beating(line: socket.socket) -> Iterator[None]:
    """Tell the client again and again that its request is worked on."""
    done = threading.Event()

    def beat() -> None:
        with suppress(OSError):
            while not done.wait(BEAT_S):
                send(line, b"")

    beating = threading.Thread(target=beat, name="beat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()


def packed(outputs: Sequence[Vector | Failure]) -> tuple[dict[str, Any], bytes]:
    """Return outputs as the two messages of an answer: what is JSON, and the vectors."""
    from docmill.tasks.outputs import Vector

    reasons = [None if isinstance(one, Vector) else [one.reason, one.reason_class] for one in outputs]
    vectors = [one.values for one in outputs if isinstance(one, Vector)]
    raw = b"".join(vector.astype("<f4", copy=False).tobytes() for vector in vectors)
    return {"reasons": reasons, "dim": len(vectors[0]) if vectors else 0}, raw


def unpacked(head: Mapping[str, Any], raw: bytes) -> list[Vector | Failure]:
    """Return the outputs of an answer. Raises ValueError if the two messages do not fit."""
    import numpy as np

    from docmill.storage.core.outcomes import Reason
    from docmill.tasks.outputs import Failure, Vector

    reasons, dim = head["reasons"], head["dim"]
    vectors = iter(np.frombuffer(raw, "<f4").reshape(reasons.count(None), dim))
    return [Vector(next(vectors)) if one is None else Failure(one[0], Reason(one[1])) for one in reasons]


def main() -> None:
    """Serve the socket and hold the lock that were handed over, in a process that nobody has to wait for."""
    listening, lock, told = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    if os.fork():
        os._exit(0)
    for number in (listening, lock):
        os.set_inheritable(number, False)
    gc.set_threshold(200_000, 1, 1)  # loading makes some hundred thousand objects and no garbage
    server = Server(socket.socket(fileno=listening), told["key"], Opening(**told["opening"]))

    def end(*_: object) -> None:
        server.leave()
        os._exit(0)  # the device's thread and what libraries keep need no farewell

    signal.signal(signal.SIGTERM, end)
    try:
        server.serve(told["idle_s"])
    finally:
        end()


if __name__ == "__main__":
    main()
