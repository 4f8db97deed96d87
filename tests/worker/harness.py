"""docmill's command as its users run it: in a process, a store and a queue of its own."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

from tests.fault_points import FAULT, SITE
from tests.worker.fork_servers import COMMANDS, address_of
from tests.worker.forkserver import Context, Fork, Forks, start_device

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
PACKAGES = ("features", "worker", "tasks", "storage")
DOCMILL = str(Path(sys.executable).with_name("docmill"))
DEADLINE_S = 300.0
Running = subprocess.Popen[bytes] | Fork
# All tests of a session share conversions and measurements of models, which take seconds each.
SHARED_BY = "DOCMILL_TEST_CACHE"
if SHARED_BY not in os.environ:  # else another process of this session has made the folder
    os.environ[SHARED_BY] = tempfile.mkdtemp(prefix="docmill-test-cache-")
    atexit.register(shutil.rmtree, os.environ[SHARED_BY], ignore_errors=True)
SHARED = Path(os.environ[SHARED_BY])
ONLY_FAST = "DOCMILL_TEST_FAST"  # set in a run of the fast subset


def copy_packages(folder: Path) -> None:
    """Copy docmill's code into a folder, which PYTHONPATH can then name."""
    for name in ("docmill", *PACKAGES):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))


@cache
def _forks() -> Forks:
    # Forks are as nice as their server, so tests that run at another niceness have a server of their own.
    forks = Forks(DOCMILL, SHARED / f"forks-{os.nice(0)}")
    atexit.register(forks.close)
    return forks


def run_child(
    module: str, order: bytes, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the `main` of a module in a fork that has the model libraries, with an order as its input."""
    return _forks().run_child(module, order, environment)


def forked_device(kind: str = COMMANDS) -> Fork:
    """Start a device process as a fork of a kind of server: without the model libraries, or `WITH_MODELS`."""
    refuse_if_fast("a device process")
    return start_device(partial(address_of, kind, _forks().address()))


def run_program(program: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> str:
    """Run a program, given as text, in a fork that has the model libraries. Return its output.

    Warnings are errors, and the exit code must be 0. Libraries may have been loaded before the program begins.
    """
    order = json.dumps({"program": program, "arguments": [*map(str, arguments)]}).encode()
    completed = run_child("tests.worker.program", order, environment)
    assert completed.returncode == 0, completed.stderr.decode()
    return completed.stdout.decode()


def refuse_if_fast(thing: str) -> None:
    """Fail a test of the fast subset that starts something."""
    assert ONLY_FAST not in os.environ, f"a test of the fast subset (tests/conftest.py) asks for {thing}"


def until(condition: Callable[[], Any], description: str, within_s: float = DEADLINE_S, every_s: float = 0.05) -> Any:
    """Wait for a condition, and return its first true value. Fail with the description after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every_s)
    raise AssertionError(f"never happened: {description}")


def share_conversions(home: Path) -> None:
    """Link the session's conversions and measurements of models into a home's cache."""
    cache = home / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for name in ("openvino", "ctranslate2", "opened", "batches", "backends", "hashes", "processors", "rehearsed"):
        (SHARED / name).mkdir(exist_ok=True)
        if not (cache / name).exists():
            (cache / name).symlink_to(SHARED / name)


def run_python(program: str, *arguments: str, cwd: Path = ROOT, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program, given as text, in a new interpreter."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)


class Docmill:
    """The command, with a folder and settings."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        refuse_if_fast("docmill's command")
        self.folder = folder
        self.from_anew = False  # start every process in a new interpreter, as users do
        self.loads_models = True  # device processes load models, so fork them from a server that has the libraries
        share_conversions(folder / "home")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOCMILL_")}
        self.environment = {
            **inherited,
            "DOCMILL_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
            **settings,
        }

    def __call__(
        self, *arguments: Any, code: int = 0, stdin: bytes = b"", timeout_s: float = DEADLINE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Fail unless its exit code is `code`, and at any traceback."""
        words = [*map(str, arguments)]
        if self.starts_anew:
            done = subprocess.run(
                [DOCMILL, *words],
                cwd=self.folder,
                env=self._environment_anew(),
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
            )
            exit_code, out, err = done.returncode, done.stdout.decode(), done.stderr.decode()
        else:
            exit_code, raw_out, raw_err = _forks().run(words, self._context(words), stdin=stdin, timeout_s=timeout_s)
            out, err = raw_out.decode(), raw_err.decode()
        assert "Traceback" not in err, err
        assert exit_code == code, f"exit code {exit_code}\n{out}\n{err}"
        return subprocess.CompletedProcess(words, exit_code, out, err)

    def _context(self, arguments: Sequence[str]) -> Context:
        computes_nothing = any(argument.startswith("null") for argument in arguments)
        return Context(self.folder, self.environment, self.loads_models and not computes_nothing)

    @property
    def starts_anew(self) -> bool:
        """True if a command needs a new interpreter, for instance to import other code."""
        return self.from_anew or "PYTHONPATH" in self.environment or "LD_PRELOAD" in self.environment

    def _environment_anew(self) -> dict[str, str]:
        """Return the environment of a new interpreter, which also arms the test's fault."""
        if FAULT not in self.environment:
            return self.environment
        path = filter(None, [str(SITE), self.environment.get("PYTHONPATH")])
        return {**self.environment, "PYTHONPATH": os.pathsep.join(path)}

    def json(self, *arguments: Any, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def results(self, job: int, *options: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self("results", job, *options).stdout.splitlines()]

    def enqueue(self, *arguments: Any, code: int = 0) -> int:
        return int(self.json("enqueue", *arguments, code=code)["id"])

    def start(self, *arguments: Any) -> Running:
        """Start a command in a process group of its own, with its log in `<folder>/<command>.log`."""
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            return self.launch(arguments, log, log)

    def launch(self, arguments: Sequence[Any], out: IO[bytes], err: IO[bytes], prefix: Sequence[str] = ()) -> Running:
        """Start a command in a process group of its own that writes to these files, after a `prefix`."""
        # A suite that runs in the background of a script ignores SIGINT, and its children would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        words = [*map(str, arguments)]
        if not self.starts_anew and not prefix:
            return _forks().start(words, self._context(words), out=out, err=err)
        return subprocess.Popen(
            [*prefix, DOCMILL, *words],
            cwd=self.folder,
            env=self._environment_anew(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )

    @contextmanager
    def variables(self, **variables: str) -> Iterator[None]:
        """Set environment variables of commands that start within the block."""
        environment = self.environment
        self.environment = environment | variables
        try:
            yield
        finally:
            self.environment = environment

    def sql(self, *statements: str) -> list[Any]:
        """Execute statements in the embedded store, and return the rows of the last one."""
        rows: list[Any] = []
        with closing(sqlite3.connect(self.folder / "home" / "docmill.db", timeout=60)) as store, store:
            for statement in statements:
                rows = store.execute(statement).fetchall()
        return rows

    @contextmanager
    def worker(self, *options: str) -> Iterator[Running]:
        """Start a worker for the length of the block, then let it drain."""
        process = self.start("worker", *options)
        try:
            yield process
            until(lambda: process.poll() is not None or device_pids(process), "the worker handles signals")
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE_S) == 0, self.log("worker")
        finally:
            if process.poll() is None:
                kill_group(process)

    def log(self, command: str) -> str:
        return (self.folder / f"{command}.log").read_text(errors="replace")


def kill_group(process: Running) -> None:
    """Kill a process and its group with SIGKILL."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_machine(worker: Running) -> None:
    """Kill a worker and its device processes with SIGKILL, as if their machine died."""
    devices = device_pids(worker)
    for pid in devices:
        os.kill(pid, signal.SIGSTOP)  # else it sees that its supervisor is dead, and gives its shards back
    kill_group(worker)
    for pid in devices:
        os.kill(pid, signal.SIGKILL)


def device_pids(process: Running) -> list[int]:
    """Return the process ids of a worker's device processes."""
    return _forks().devices(process.pid) if isinstance(process, Fork) else device_children(process.pid)


def device_children(pid: int) -> list[int]:
    """Return the process ids of the device processes of a worker that is no fork."""
    return [run_child for run_child in children(pid) if b"docmill.worker.process.device" in command_of(run_child)]


def children(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(run_child) for run_child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def command_of(pid: int) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
