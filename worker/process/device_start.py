"""The start of device processes, which may come before their orders, since their imports take a second."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from types import TracebackType

from docmill.worker.pids import command_of
from docmill.worker.process.device_config import Expected


def start_device() -> subprocess.Popen[bytes]:
    """Start a device process, which waits for its order."""
    return subprocess.Popen(
        command_of("docmill.worker.process.device"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C in the terminal is ours to answer
    )


class StartedDevices:
    """Device processes without an order. Those that got none end with the `with` block."""

    def __init__(self, count: int) -> None:
        self._waiting = [start_device() for _ in range(count)]

    def take(self) -> subprocess.Popen[bytes]:
        """Return one of them, or another if none is left."""
        return self._waiting.pop() if self._waiting else start_device()

    def expect(self, expected: Expected) -> None:
        """Have the processes import what they will need for a spec, while this one goes on."""
        for process in self._waiting:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # its supervisor sees that it died
                process.stdin.write(expected.to_line())
                process.stdin.flush()

    def __enter__(self) -> StartedDevices:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._waiting:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what it was told and did not read
                        pipe.close()
        self._waiting.clear()
