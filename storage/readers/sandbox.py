"""Run programs that read hostile formats, each in a process of its own that a document may kill.

Both sides send frames: a line of JSON with a "size", and that many bytes. The process has little memory, may write no
file and gets no secrets. It reads its standard input and ends with it. `confinement` has the rights that the kernel
takes from it.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, BinaryIO

from docmill.storage.readers import confinement

TIME_S = 60.0
MEMORY = 2 * 2**30
_BLOCK = 1 << 16
_KEPT = {"PATH", "LANG", "PYTHONPATH", "TMPDIR"}


class Ended(Exception):
    """The confined process ended, or was ended for its time."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "reading it took more memory than a document may, or ended the reader")


class Confined:
    """A confined process, started when it is needed and again after it ended. Close it after use.

    A method that raises Ended has closed it. `arguments` are those of its command line.
    """

    def __init__(
        self,
        module: str,
        time_s: float = TIME_S,
        environment: frozenset[str] = frozenset(),
        arguments: tuple[str, ...] = (),
    ) -> None:
        self._called = (module, *arguments)
        self._time_s = time_s
        self._kept = _KEPT | environment
        self._process: subprocess.Popen[bytes] | None = None
        self._received = bytearray()

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Send a frame. Raises Ended."""
        process = self._running()
        assert process.stdin is not None
        try:
            send(process.stdin, head, body)
        except BrokenPipeError as error:
            self.close()
            raise Ended from error

    def receive(self, max_bytes: int) -> tuple[dict[str, Any], bytes]:
        """Return the next frame. Raises Ended if none comes in time, or if it is larger than the limit."""
        process, received = self._process, self._received
        assert process is not None
        assert process.stdout is not None
        deadline = time.monotonic() + self._time_s
        try:
            while (end := received.find(b"\n")) < 0:
                received += _some(process.stdout, deadline)
            head: dict[str, Any] = json.loads(received[:end])
            del received[: end + 1]
            if head["size"] > max_bytes:
                self.close()
                raise Ended(f"its text has more than {max_bytes:,} bytes")
            while len(received) < head["size"]:
                received += _some(process.stdout, deadline)
        except EOFError as error:
            self.close()
            raise Ended from error
        except TimeoutError as error:
            self.close()
            raise Ended(f"reading it took more than {self._time_s:.0f} s") from error
        body = bytes(received[: head["size"]])
        del received[: head["size"]]
        return head, body

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._received.clear()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            confinement.hide_memory()
            # It gets the variables that find libraries, and a secret only if its work needs one.
            kept = {name: value for name, value in os.environ.items() if name in self._kept}
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._called],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=kept,
                cwd=Path(__file__).parents[3],  # the folder in which `docmill` lies
                start_new_session=True,  # so that Ctrl-C reaches the parent alone
            )
        return self._process


def confine(*, network: bool = False) -> None:
    """Take the rights that a confined process has beside those to files, and most of the memory, from this one."""
    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    confinement.restrict_system(network)


def send(stream: IO[bytes], head: dict[str, Any], body: bytes = b"") -> None:
    stream.write(json.dumps(head | {"size": len(body)}).encode() + b"\n")
    stream.write(body)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Wait for the next frame and return it; None at the end of the input."""
    if not (line := stream.readline()):
        return None
    head: dict[str, Any] = json.loads(line)
    return head, stream.read(head["size"])


def _some(pipe: IO[bytes], deadline: float) -> bytes:
    """Return the next bytes. Raises TimeoutError and EOFError."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
    if not (data := os.read(pipe.fileno(), _BLOCK)):
        raise EOFError
    return data
