"""Runs that go on after their terminal ended: their start, their log, and the record that tells others about them.

A detached run is a process in a session of its own. The home folder has its record (`runs/JOB-STORE.json`) and its
log. STORE is a digest, since two stores may each have a job 1. The process holds a lock on the record as long as it
lives, so a record without a lock and without an exit code is that of a crash. A process's number would not do: the
system gives it to another process.

An earlier release wrote `runs/JOB.json`, which is read where the store has no record of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from docmill import command_of
from storage.core.private_files import make_file, make_folder
from worker.errors import RunsDetached, WorkerError
from worker.home import RUNS
from worker.stores import key_of

if TYPE_CHECKING:
    from worker.settings import Settings

KEPT_LOGS = 50
TRIES, TRY_AGAIN_S = 20, 0.05  # `Runs.lives` holds a lock for a moment


@dataclass(frozen=True)
class DetachedRun:
    """A detached run of a job; `code` is its exit code, None while it runs and after a crash."""

    job: int
    pid: int
    log: str
    started_at: float
    code: int | None = None


class NotStarted(WorkerError):
    """The detached run ended before it had a job."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code


def start(home: Path, arguments: Sequence[str]) -> DetachedRun:
    """Start `docmill run` in a session of its own, and return it once its job has a number.

    `arguments` are those of the command line; `--detached FD LOG` is put after `run`. Raises NotStarted.
    """
    folder = home / RUNS
    make_folder(folder)
    forget(folder)
    log = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    make_file(log)
    reading, writing = os.pipe()
    at = list(arguments).index("run") + 1
    command = [*command_of("worker.cli"), *arguments[:at], "--detached", str(writing), str(log), *arguments[at:]]
    with log.open("ab") as out, os.fdopen(reading, encoding="utf-8") as heard:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=[writing], start_new_session=True
        )
        os.close(writing)
        try:
            line = heard.readline()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if not line:
        code = process.wait()
        said = log.read_text(encoding="utf-8", errors="replace").strip()
        log.unlink()
        raise NotStarted(code if code > 0 else 1, said)
    return DetachedRun(int(line), process.pid, str(log), time.time())


class Reporter:
    """The side of the detached process: reports its job, and keeps the record."""

    def __init__(self, runs: Runs, writing: int, log: str) -> None:
        self._runs = runs
        self._writing = writing
        self._log = log
        self._lock: IO[bytes] | None = None
        self._run: DetachedRun | None = None

    def opened(self, job: int) -> None:
        """Record the run of a job, and tell the command that started it. Raises RunsDetached."""
        if self._run is not None:
            return
        self._runs.refuse_second(job)
        self._lock = self._runs.locked(job)  # first: without it the record is another run's
        self._run = DetachedRun(job, os.getpid(), self._log, time.time())
        self._write()
        os.write(self._writing, f"{job}\n".encode())
        os.close(self._writing)

    def ended(self, code: int) -> None:
        """Record the exit code."""
        if self._run is not None:
            self._run = replace(self._run, code=code)
            self._write()

    def _write(self) -> None:
        assert self._run is not None
        path = self._runs.record_file(self._run.job)
        new = path.with_suffix(".new")
        make_file(new)
        new.write_text(json.dumps(asdict(self._run)), encoding="utf-8")
        new.replace(path)


@dataclass(frozen=True)
class Runs:
    """The detached runs of a store: their records and locks in a folder."""

    folder: Path
    store: str

    @classmethod
    def of(cls, settings: Settings) -> Runs:
        """Return the detached runs of the settings' store."""
        return cls(settings.home / RUNS, key_of(settings))

    def find(self, job: int) -> DetachedRun | None:
        """Return the last detached run of a job; None if there is none."""
        return _read(self._last(job))

    def lives(self, job: int) -> bool:
        """Return True while the process of a job's detached run lives."""
        return _is_held(_lock_file(self._last(job)))

    def refuse_second(self, job: int) -> None:
        """Raise RunsDetached if a detached run computes the job now."""
        if self.lives(job):
            raise _runs_detached(job)

    def locked(self, job: int) -> IO[bytes]:
        """Return the lock of a job's run, held. Raises RunsDetached if another run was quicker."""
        lock = _lock_file(self.record_file(job)).open("ab")
        for _ in range(TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            time.sleep(TRY_AGAIN_S)
        lock.close()
        raise _runs_detached(job)

    def record_file(self, job: int) -> Path:
        return self.folder / f"{job}-{self.store}.json"

    def _last(self, job: int) -> Path:
        """Return the record of a job's last run; that of an earlier release if the store has none of its own."""
        own = self.record_file(job)
        return own if _lock_file(own).exists() else self.folder / f"{job}.json"


def _read(record: Path) -> DetachedRun | None:
    try:
        return DetachedRun(**json.loads(record.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_held(lock_file: Path) -> bool:
    try:
        with lock_file.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False


def _runs_detached(job: int) -> RunsDetached:
    return RunsDetached(
        f"job {job} has a detached run already; follow it with: docmill attach {job}, or end it with: "
        f"docmill cancel {job}"
    )


def _lock_file(record: Path) -> Path:
    return record.with_suffix(".lock")


def forget(folder: Path) -> None:
    """Delete the oldest logs, records and locks of runs that have ended."""
    records = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in records[: max(0, len(records) - KEPT_LOGS)]:
        if _is_held(_lock_file(path)):
            continue
        found = _read(path)
        with suppress(OSError):
            if found is not None:
                Path(found.log).unlink(missing_ok=True)
            path.unlink()
            _lock_file(path).unlink(missing_ok=True)
