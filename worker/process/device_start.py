"""Start device processes, and the lines that they read: specs to expect, and the configuration.

A process may start before its configuration is known, since its imports take a second.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from docmill.worker.concurrency import command_of


def start_device() -> subprocess.Popen[bytes]:
    """Start a device process, which waits for its configuration."""
    return subprocess.Popen(
        command_of("docmill.worker.process.device"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # only the supervisor answers a Ctrl-C in the terminal
    )


def close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process, and close the pipes to it."""
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what it was told and did not read
                pipe.close()


class StartedDevices:
    """Device processes without a configuration. Those that got none end with the `with` block."""

    def __init__(self, count: int) -> None:
        self._waiting = [start_device() for _ in range(count)]

    def take(self) -> subprocess.Popen[bytes]:
        """Return a process that was started, or start another if none is left."""
        return self._waiting.pop() if self._waiting else start_device()

    def expect(self, spec: str, device: str, settings: dict[str, Any]) -> None:
        """Let the processes import what a spec (as JSON) needs, while this process goes on."""
        line = json.dumps({"spec": spec, "device": device, "settings": settings}).encode() + b"\n"
        for process in self._waiting:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # its supervisor sees that it died
                process.stdin.write(line)
                process.stdin.flush()

    def __enter__(self) -> StartedDevices:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._waiting:
            process.kill()
            close_pipes(process)
        self._waiting.clear()


CUT = "cut"  # the kind of an activity: the texts of a shard are cut
# The supervisor's commands. A process that rests keeps its models and waits for SERVE with another job's number.
DRAIN, STOP, REST, SERVE = "drain", "stop", "rest", "serve "


@dataclass(frozen=True)
class DeviceConfig:
    """The configuration that a supervisor writes to a device process's standard input.

    With ``only_job`` the process offers no other job's shards.
    """

    owner: str
    device: str
    settings: dict[str, Any]
    only_job: int | None = None

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"
