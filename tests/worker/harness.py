"""docmill as its users have it: the command in a process of its own, with a store and a queue of the test's own."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

from tests.fault_points import FAULT, SITE
from tests.worker.fork_servers import WITH_MODELS, address_of
from tests.worker.forkserver import Fork, Forks, How, start_device

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
PACKAGES = ("features", "worker", "tasks", "storage")
DOCMILL = str(Path(sys.executable).with_name("docmill"))
DEADLINE_S = 120.0
Running = subprocess.Popen[bytes] | Fork
# What is made of models' files and measured of them is shared by all tests of a session; it takes seconds each time.
SHARED_BY = "DOCMILL_TEST_CACHE"
if SHARED_BY not in os.environ:  # else another process of this session made it
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
    # Forks are as nice as their server: the half of the tests that waits for what must happen in time has its own.
    forks = Forks(DOCMILL, SHARED / f"forks-{os.nice(0)}")
    atexit.register(forks.close)
    return forks


def run_child(
    module: str, order: bytes, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Have the `main` of a module carry out an order in a fork of a process that has the model libraries."""
    return _forks().child(module, order, environment)


def forked_device() -> Fork:
    """Start a device process as a fork of a process that has docmill's libraries, without those of models."""
    refuse_if_fast("a device process")
    return start_device(_forks().address)


def forked_device_with_models() -> Fork:
    """Start a device process as a fork of a process that has the libraries of models, too."""
    refuse_if_fast("a device process")
    return start_device(partial(address_of, WITH_MODELS, _forks().address()))


def run_program(program: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> str:
    """Run a program, given as text, in such a fork with warnings as errors, and return its output.

    It must end well. Its libraries may have been loaded before it begins.
    """
    order = json.dumps({"program": program, "arguments": [*map(str, arguments)]}).encode()
    done = run_child("tests.worker.program", order, environment)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def refuse_if_fast(what: str) -> None:
    """Fail a test of the fast subset that starts something."""
    assert ONLY_FAST not in os.environ, f"a test of the fast subset (tests/conftest.py) asks for {what}"


def until(condition: Callable[[], Any], what: str, within_s: float = DEADLINE_S, every_s: float = 0.05) -> Any:
    """Wait on a condition; its first true value. Fails with `what` when it never comes."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every_s)
    raise AssertionError(f"never happened: {what}")


def share_conversions(home: Path) -> None:
    """Let a home have the session's conversions and measurements in its cache."""
    cache = home / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for name in ("openvino", "ctranslate2", "opened", "batches", "backends", "hashes", "processors", "rehearsed"):
        (SHARED / name).mkdir(exist_ok=True)
        if not (cache / name).exists():
            (cache / name).symlink_to(SHARED / name)


class Docmill:
    """The command with one set of settings."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        refuse_if_fast("docmill's command")
        self.folder = folder
        self.from_anew = False  # start every process as its user does
        self.loads_models = True  # its device processes do, which are quicker as forks of one that has the libraries
        share_conversions(folder / "home")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DOCMILL_")}
        self.environment = {
            **kept,
            "DOCMILL_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
            **settings,
        }

    def __call__(
        self, *arguments: Any, code: int = 0, stdin: bytes = b"", timeout_s: float = DEADLINE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its exit code must be `code`, and there is never a traceback."""
        given = [*map(str, arguments)]
        if self.starts_anew:
            done = subprocess.run(
                [DOCMILL, *given],
                cwd=self.folder,
                env=self._environment_anew(),
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
            )
            found, out, err = done.returncode, done.stdout.decode(), done.stderr.decode()
        else:
            found, raw_out, raw_err = _forks().run(given, self._how(given), stdin=stdin, timeout_s=timeout_s)
            out, err = raw_out.decode(), raw_err.decode()
        assert "Traceback" not in err, err
        assert found == code, f"exit code {found}\n{out}\n{err}"
        return subprocess.CompletedProcess(given, found, out, err)

    def _how(self, arguments: Sequence[str]) -> How:
        computes_nothing = any(argument.startswith("null") for argument in arguments)
        return How(self.folder, self.environment, self.loads_models and not computes_nothing)

    @property
    def starts_anew(self) -> bool:
        """True if a command needs an interpreter of its own, for instance since it has other code."""
        return self.from_anew or "PYTHONPATH" in self.environment or "LD_PRELOAD" in self.environment

    def _environment_anew(self) -> dict[str, str]:
        """Return the environment of a new interpreter, which arms the fault of a test if there is one."""
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
        """A command in a process group of its own, its log in `<folder>/<command>.log`."""
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            return self.launch(arguments, log, log)

    def launch(self, arguments: Sequence[Any], out: IO[bytes], err: IO[bytes], within: Sequence[str] = ()) -> Running:
        """A command in a process group of its own that writes to these files; `within` is what it is started by."""
        # A suite that runs in the background of a script ignores SIGINT, and its children would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        given = [*map(str, arguments)]
        if not self.starts_anew and not within:
            return _forks().start(given, self._how(given), out=out, err=err)
        return subprocess.Popen(
            [*within, DOCMILL, *given],
            cwd=self.folder,
            env=self._environment_anew(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )

    @contextmanager
    def worker(self, *options: str) -> Iterator[Running]:
        """A worker that lives as long as the block, then drains."""
        process = self.start("worker", *options)
        try:
            yield process
            until(lambda: process.poll() is not None or device_pids(process), "it begins, and heeds signals")
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE_S) == 0, self.log("worker")
        finally:
            if process.poll() is None:
                kill_group(process)

    def log(self, command: str) -> str:
        return (self.folder / f"{command}.log").read_text(errors="replace")


def kill_group(process: Running) -> None:
    """kill -9 of a process and of everything that shares its group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_machine(worker: Running) -> None:
    """kill -9 of a worker and of its device processes, which give nothing back."""
    devices = device_pids(worker)
    for pid in devices:
        os.kill(pid, signal.SIGSTOP)  # else one sees that its supervisor is dead
    kill_group(worker)
    for pid in devices:
        os.kill(pid, signal.SIGKILL)


def device_pids(process: Running) -> list[int]:
    """The device processes of a worker."""
    return _forks().devices(process.pid) if isinstance(process, Fork) else device_children(process.pid)


def device_children(pid: int) -> list[int]:
    """The same of one that was not forked, by its number, as the kernel lists its children."""
    return [child for child in children(pid) if b"docmill.worker.process.device" in command_of(child)]


def children(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def command_of(pid: int) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
