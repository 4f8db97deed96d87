"""Programs of the torture table: started as their users start them, watched, and killed with or without children."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent.parent / "build" / "torture" / "envs"
COUNTING = HERE / "counting"
LOOK_S = 0.002
STALLED_S = 120.0  # a program that computes nothing for so long hangs
LONGEST_S = 180.0  # and so does one that takes longer, on a machine with nothing else to do,
SLOWEST = 8.0  # plus a second for so many texts
LINGER_S = 10.0  # how long children may outlive a killed parent before we end them
QUIET = {  # no telemetry, no hub
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",  # a busy machine is not a dead one
    "COCOINDEX_DISABLE_USAGE_TRACKING": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "0",
}


@dataclass(frozen=True)
class Peer:
    """A tool and its user's program.

    ``state`` are variables that keep the tool's own files in the work folder, and ``requirements`` what its
    environment has. Without any it runs in that of the bench.
    """

    name: str  # short: the table has a column for each
    program: str
    requirements: str = ""
    library: str = "sentence_transformers"  # what holds the model
    state: Mapping[str, str] = field(default_factory=dict)
    cannot: Mapping[str, str] = field(default_factory=dict)  # rows that it does not offer, and why

    @property
    def path(self) -> Path:
        return HERE / "peers" / self.program

    @property
    def key(self) -> str:
        """Its name on the command line."""
        return self.path.stem.removeprefix("with_")

    @property
    def lines(self) -> int:
        """The lines of the user's code without blank lines, comments and the docstring."""
        code = self.path.read_text()
        if code.startswith('"""'):
            code = code.split('"""', 2)[2]
        return sum(1 for line in code.splitlines() if line.strip() and not line.strip().startswith("#"))

    def python(self) -> Path:
        """Return the Python of its environment."""
        return ENVIRONMENTS / self.requirements / "bin" / "python" if self.requirements else Path(sys.executable)

    def listed(self) -> Path:
        return HERE / "requirements" / f"{self.requirements}.txt"

    def pins(self) -> str:
        """Return what its environment has."""
        if not self.requirements:
            return "the environment of the bench"
        listed = self.listed()
        lines = listed.read_text().replace("-r common.txt", (listed.parent / "common.txt").read_text()).splitlines()
        return ", ".join(line for line in lines if line and not line.startswith("#"))


class Program:
    """One start of a peer's program in a work folder, and all processes that come of it."""

    def __init__(
        self, peer: Peer, folder: Path, log: Path, arguments: tuple[str, ...], texts: int, poison: str = ""
    ) -> None:
        self.mark = f"TORTURE_RUN={uuid4().hex}"
        python = peer.python()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DOCMILL_", "PYTHON"))},
            **QUIET,
            **{key: value.format(folder=folder) for key, value in peer.state.items()},
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(COUNTING),
            "TORTURE_LOG": str(log),
            "TORTURE_MODEL_OF": peer.library,
            "TORTURE_POISON": poison,
            "TORTURE_RUN": self.mark.partition("=")[2],
        }
        start = ["sh"] if peer.path.suffix == ".sh" else [str(python)]
        self.began = time.monotonic()
        self.last = self.began + LONGEST_S + texts / SLOWEST
        self.seconds: float | None = None
        self.hung = False
        self.left = False  # processes outlived it, and we ended them
        self._log = log
        with (log.parent / "said.log").open("ab") as said:
            self._process = subprocess.Popen(
                [*start, str(peer.path), *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        atexit.register(self.kill_all)

    def ended(self) -> bool:
        if self._process.poll() is None:
            return False
        self.seconds = self.seconds or time.monotonic() - self.began
        return True

    def wait(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the program ends or something holds. Returns False when the program ended first.

        A program that hangs is killed.
        """
        moved, size = time.monotonic(), -1
        while not self.ended():
            if until():
                return True
            now = self._log.stat().st_size if self._log.exists() else 0
            if now != size:
                moved, size = time.monotonic(), now
            if time.monotonic() > min(moved + STALLED_S, self.last):
                self.hung = True
                self.kill_all()
            time.sleep(LOOK_S)
        return False

    def finish(self) -> int:
        """Wait for its end and that of its children. Returns the exit code, negative for a signal."""
        self.wait()
        self._end_children()
        return self._process.returncode

    def kill(self) -> int:
        """Kill the process that the user started. Its children have some seconds to end by themselves."""
        self._process.kill()
        return self.finish()

    def kill_all(self) -> int:
        """Kill all its processes in one moment, or nearly."""
        for _ in range(3):  # a child may be starting another
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self.ended()
        return self._process.returncode

    def processes(self) -> list[int]:
        """All living processes that have its mark in their environment: also those with another parent by now."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_mine(entry)]

    def _is_mine(self, process: Path) -> bool:
        try:
            return self.mark.encode() in (process / "environ").read_bytes()
        except OSError:
            return False

    def _end_children(self) -> None:
        deadline = time.monotonic() + LINGER_S
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.left = bool(self.processes())
        self.kill_all()
