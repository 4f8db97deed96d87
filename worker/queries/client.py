"""Texts of a search, embedded by the query process if there is one, or can be, and else by this process."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from docmill.storage.core.private_files import make_folder
from docmill.tasks.engine import queries
from docmill.tasks.engine.queries import Embed
from docmill.tasks.models import weightless
from docmill.worker.engines import running
from docmill.worker.pids import command_of
from docmill.worker.queries.process import Opening, is_own, receive, send, unpacked
from docmill.worker.settings import Settings, for_libraries, without_settings

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.tasks.engine.engine import Engine
    from docmill.tasks.outputs import Failure, Vector

log = logging.getLogger("docmill.search")

SILENCE_S = 30.0  # after which a process that says nothing is left alone
START_S = 5.0  # for another command to start the process, or for an old process to end


@contextmanager
def embedding(settings: Settings, device: str, *, starts: bool) -> Iterator[Embed]:
    """Yield what embeds queries under a spec: the query process, or this one from the first time that it has to.

    A query process is started only if `starts` says so.
    """
    process = QueryProcess(settings, device, starts=starts)
    engine: Engine | None = None
    with ExitStack() as stack:

        def embed(spec: Spec, texts: Sequence[str]) -> list[Vector | Failure]:
            nonlocal engine
            if engine is None:
                if (outputs := process.embed(spec, texts)) is not None:
                    return outputs
                engine = stack.enter_context(running(settings, device))
            return queries.embed(engine, spec, texts)

        yield embed


class QueryProcess:
    """The process of this user's home, as a client sees it.

    Its lock is held by whoever may make or remove the socket: a command that starts it, and then the process.
    """

    def __init__(self, settings: Settings, device: str, *, starts: bool) -> None:
        self._idle_s = settings.search_idle_s
        self._starts = starts
        # Another program may want a GPU's memory at once.
        self._serves = device == "cpu" and self._idle_s > 0
        models_dir = None if settings.models_dir is None else str(settings.models_dir)
        self._opening = Opening(device, settings.backend, models_dir, str(settings.cache_dir))
        self._folder = settings.cache_dir / "search"
        self._socket = self._folder / "socket"

    def embed(self, spec: Spec, texts: Sequence[str]) -> list[Vector | Failure] | None:
        """Return an output for each text, or None where the process cannot be asked or does not answer."""
        if not self._serves or weightless.is_weightless(spec.model):
            return None
        try:
            key = self._opening.key(for_libraries())
            given = {"key": key, "replaces": self._starts, "idle_s": self._idle_s, "spec": vars(spec), "texts": texts}
            request = json.dumps(given).encode()
            for _ in range(2):  # the first process may have another key, and leaves
                line = self._reach(key)
                if line is None:
                    return None
                with line:
                    head, vectors = _answer(line, request)
                if vectors is not None:
                    log.info("query_process_answered pid=%d opened=%d", head["pid"], head["opened"])
                    return unpacked(head, vectors)
                if "other" not in head or not self._starts:
                    break
            log.info("query_process_refused answer=%s", head)
        except (OSError, ValueError) as error:
            log.info("query_process_failed error=%s", type(error).__name__)
        return None

    def _reach(self, key: str) -> socket.socket | None:
        """Return a line to the process, which is started if need be and allowed. Raises OSError."""
        deadline = time.monotonic() + START_S
        started = False
        while True:
            try:
                return self._connected()
            except (FileNotFoundError, ConnectionRefusedError):
                if not self._starts:
                    return None
                if started or time.monotonic() > deadline:
                    raise
            make_folder(self._folder)
            with (self._folder / "lock").open("ab") as lock:
                if started := _locked(lock):
                    self._start(key, lock)
                else:
                    time.sleep(0.01)

    def _connected(self) -> socket.socket:
        found = self._folder.lstat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{self._folder} is not for this user alone")
        line = socket.socket(socket.AF_UNIX)
        try:
            line.settimeout(SILENCE_S)
            line.connect(str(self._socket))
            if not is_own(line):
                raise PermissionError(f"{self._socket} is another user's")
        except OSError:
            line.close()
            raise
        return line

    def _start(self, key: str, lock: IO[bytes]) -> None:
        """Make the socket, and start the process with it and the lock: a client need not wait until it listens."""
        self._socket.unlink(missing_ok=True)
        told = json.dumps({"key": key, "opening": asdict(self._opening), "idle_s": self._idle_s})
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._socket))
            listener.listen()
            handed = (listener.fileno(), lock.fileno())
            with subprocess.Popen(
                [*command_of("docmill.worker.queries.process"), *map(str, handed), told],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=without_settings(),
                pass_fds=handed,
                start_new_session=True,
            ):
                pass  # it leaves the work to a process of its own, and ends


def _locked(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answer(line: socket.socket, request: bytes) -> tuple[dict[str, object], bytes | None]:
    """Return the answer to a request: what is JSON, and the vectors where there are some."""
    send(line, request)
    while not (answer := receive(line)):
        continue
    head = json.loads(answer)
    return head, receive(line) if "reasons" in head else None
