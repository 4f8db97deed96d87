"""Start the torture table's programs as their users do, watch them, and kill them with or without their children."""

from __future__ import annotations

import ast
import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent.parent / "build" / "torture" / "envs"
COUNTING = HERE / "counting"
POLL_S = 0.002
# A program hangs if it computes nothing for this long.
STALLED_S = 120.0
# It also hangs if it takes longer than this, plus the time for its texts at the slowest rate.
LONGEST_S = 180.0
SLOWEST_TEXTS_PER_S = 8.0
LINGER_S = 10.0  # how long children may outlive a killed parent before we kill them
QUIET = {  # no telemetry, no hub
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",  # a busy machine is not a dead one
    "COCOINDEX_DISABLE_USAGE_TRACKING": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Peer:
    """A tool and its user's program.

    ``requirements`` names the file with the packages of the tool's environment. Without one, the program runs in the
    benchmark's environment. ``state`` has environment variables that keep the tool's own files in the work folder.
    """

    name: str  # short: it heads a column of the table
    program: str
    requirements: str = ""
    library: str = "sentence_transformers"  # the package that computes the model
    state: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return HERE / "peers" / self.program

    @property
    def key(self) -> str:
        """The tool's name on the command line."""
        return self.path.stem.removeprefix("with_")

    @property
    def lines(self) -> int:
        """The number of lines of the user's code, without blank lines, comments and docstrings."""
        code = self.path.read_text()
        lines = dict(enumerate(code.splitlines(), 1))
        if self.path.suffix == ".py":
            for number in _find_docstring_lines(ast.parse(code)):
                del lines[number]
        return sum(1 for line in lines.values() if line.strip() and not line.strip().startswith("#"))

    @property
    def python(self) -> Path:
        """The Python of the tool's environment."""
        return ENVIRONMENTS / self.requirements / "bin" / "python" if self.requirements else Path(sys.executable)

    @property
    def requirements_path(self) -> Path:
        return HERE / "requirements" / f"{self.requirements}.txt"

    def read_versions(self) -> str:
        """Return the packages of the tool's environment with their versions."""
        if not self.requirements:
            return "the environment of the bench"
        path = self.requirements_path
        lines = path.read_text().replace("-r common.txt", (path.parent / "common.txt").read_text()).splitlines()
        packages = (line.partition("#")[0].strip() for line in lines)
        return ", ".join(filter(None, packages))


def _find_docstring_lines(tree: ast.Module) -> Iterator[int]:
    """Yield the numbers of the lines of all docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            yield from range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1)


class Program:
    """A run of a peer's program in a work folder, with all processes that it starts."""

    def __init__(
        self, peer: Peer, folder: Path, log: Path, arguments: tuple[str, ...], texts: int, poison: str = ""
    ) -> None:
        self._mark = f"TORTURE_RUN={uuid4().hex}"
        python = peer.python
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DOCMILL_", "PYTHON"))},
            **QUIET,
            **{key: value.format(folder=folder) for key, value in peer.state.items()},
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(COUNTING),
            "TORTURE_LOG": str(log),
            "TORTURE_MODEL_OF": peer.library,
            "TORTURE_POISON": poison,
            "TORTURE_RUN": self._mark.partition("=")[2],
        }
        interpreter = ["sh"] if peer.path.suffix == ".sh" else [str(python)]
        self.began = time.monotonic()
        self.deadline = self.began + LONGEST_S + texts / SLOWEST_TEXTS_PER_S
        self.seconds: float | None = None
        self.hung = False
        self.left_processes = False  # processes outlived the program, and we killed them
        self._log = log
        with (log.parent / "program.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*interpreter, str(peer.path), *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        atexit.register(self.kill_all)

    def has_ended(self) -> bool:
        if self._process.poll() is None:
            return False
        self.seconds = self.seconds or time.monotonic() - self.began
        return True

    def wait(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the program ends or ``until`` returns true. Return False if the program ended first.

        Kill a program that hangs.
        """
        progress_at, log_bytes = time.monotonic(), -1
        while not self.has_ended():
            if until():
                return True
            now_bytes = self._log.stat().st_size if self._log.exists() else 0
            if now_bytes != log_bytes:
                progress_at, log_bytes = time.monotonic(), now_bytes
            if time.monotonic() > min(progress_at + STALLED_S, self.deadline):
                self.hung = True
                self.kill_all()
            time.sleep(POLL_S)
        return False

    def finish(self) -> int:
        """Wait until the program and its children end. Return the exit code, negative for a signal."""
        self.wait()
        self._end_children()
        return self._process.returncode

    def kill(self) -> int:
        """Kill the process that the user started. Its children get some seconds to end by themselves.

        Return the exit code.
        """
        self._process.kill()
        return self.finish()

    def kill_all(self) -> int:
        """Kill all processes of the program at nearly the same moment. Return the exit code."""
        for _ in range(3):  # a child may just start another
            for pid in self._list_processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self.has_ended()
        return self._process.returncode

    def _list_processes(self) -> list[int]:
        """Return the ids of all living processes of the program, which have its mark in their environment."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._owns(entry)]

    def _owns(self, process: Path) -> bool:
        try:
            return self._mark.encode() in (process / "environ").read_bytes()
        except OSError:
            return False

    def _end_children(self) -> None:
        deadline = time.monotonic() + LINGER_S
        while self._list_processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.left_processes = bool(self._list_processes())
        self.kill_all()
