"""An installation for the benchmarks: a store on PostgreSQL, a Redis, and a worker that keeps its models loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from bench.pairs import peak_mb
from bench.stores import fresh_postgres, own_redis
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, Shard, Worker
from docmill.storage.steps.sharding import OPEN_SHARDS
from docmill.tasks import kinds
from docmill.tasks.kinds import STORED_KINDS as KINDS
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import load_settings
from docmill.worker.submit.enqueue import enqueue
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import prepare

POLL_INTERVAL_S = 0.5  # each poll takes a millisecond of two processes from the job
TIMEOUT_S = 600.0


class Fleet:
    """An installation that runs and times jobs.

    A job's time starts when its source file is complete. It ends at the commit of its last shard. The database's
    clock gives that time, and the database runs on this machine.
    """

    def __init__(self, folder: Path, database_url: str, redis_url: str, worker_pid: int) -> None:
        self._folder = folder
        self._worker_pid = worker_pid
        self._settings = load_settings(home=folder / "home", database_url=database_url, redis_url=redis_url)
        self._database = Database(database_url, kinds=KINDS)
        self._broker = Broker(redis_url)
        self._runs = 0
        self._busy_shares: list[float] = []

    def run(self, texts: Sequence[str], task: str, model: str, **options: Any) -> tuple[float, int]:
        """Run a job over these texts, and return its seconds and the number of tokens that the model wrote.

        Raises SystemExit if a text fails.
        """
        self._runs += 1
        source = self._folder / f"{self._runs}.jsonl"
        source.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
        request = Request(source=str(source), task=task, model=model, options=kinds.options(task, **options))
        began = time.time()
        job_id = enqueue(self._database, self._broker, prepare(self._settings, request)).id
        self._wait(job_id)
        self._busy_shares += self._read_busy_shares()
        ended, tokens = self._read_end_and_tokens(job_id, len(texts))
        return ended - began, tokens

    @property
    def cache_dir(self) -> Path:
        """The folder where the worker keeps its converted models and its measurements of this machine."""
        return self._settings.cache_dir

    def close(self) -> None:
        self._broker.close()
        self._database.close()

    def _wait(self, job_id: int) -> None:
        """Wait until the job's source is read and the job has no open shard."""
        open_shard = select(Shard.id).where(Shard.job_id == job_id, Shard.state.in_(OPEN_SHARDS)).limit(1)
        ingesting = select(Job.id).where(Job.id == job_id, Job.state == "ingesting")
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            with self._database.read() as transaction:
                if transaction.scalar(open_shard) is None and transaction.scalar(ingesting) is None:
                    return
            time.sleep(POLL_INTERVAL_S)
        raise SystemExit(f"the job did not end within {TIMEOUT_S:.0f} s: {self.log()[-2000:]}")

    def _read_end_and_tokens(self, job_id: int, documents: int) -> tuple[float, int]:
        """Return the time of the last shard's commit, and the number of tokens that the model wrote."""
        last_commit = func.max(Shard.finished_at)
        totals = (func.sum(Shard.n_contents), func.sum(Shard.n_failed), func.sum(Shard.tokens_out), last_commit)
        with self._database.read() as transaction:
            done, failed, tokens, ended = transaction.execute(
                select(*totals).where(Shard.job_id == job_id, Shard.state == "done")
            ).one()
        if done != documents or failed:
            raise SystemExit(
                f"{done} of {documents} texts are done, and {failed} of these failed: {self.log()[-2000:]}"
            )
        return float(ended or 0), int(tokens or 0)

    def log(self) -> str:
        """Return the worker's log."""
        return (self._folder / "worker.log").read_text()

    def worker_peak_mb(self) -> float:
        """Return the sum of the peak memory of the worker's supervisor and of its device processes, in MB."""
        return sum(peak_mb(pid) for pid in (self._worker_pid, *_list_children(self._worker_pid)))

    def busy_shares(self) -> list[float]:
        """Return the shares of the time with texts in which a device computed, as the workers report them.

        Each run adds the shares of its last minute.
        """
        return [*self._busy_shares]

    def _read_busy_shares(self) -> list[float]:
        """Return the shares of the last minute."""
        with self._database.read() as transaction:
            uses = transaction.scalars(select(Worker.time_use)).all()
        return [use["device"] / use["working"] for use in uses if use and use["working"]]


def _list_children(parent: int) -> list[int]:
    """Return the ids of a process's living children."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


@contextmanager
def fleet(
    folder: Path,
    *,
    lane: str,
    backend: str = "auto",
    python: str = sys.executable,
    cache: Path | None = None,
    endpoint: str | None = None,
) -> Iterator[Fleet]:
    """Run an installation in a new folder, and stop it when the block ends.

    ``python`` is the interpreter of the environment whose `docmill` is the worker. ``cache`` is the worker's cache
    folder, which another installation may have filled. With ``endpoint``, the worker sends its texts to that server
    and needs no device.
    """
    (folder / "home").mkdir(parents=True)
    if cache is not None:
        cache.mkdir(exist_ok=True)
        (folder / "home" / "cache").symlink_to(cache)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the blocks below clean up
    with fresh_postgres() as database_url, own_redis(folder) as (redis_url, _):
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DOCMILL_")},
            "DOCMILL_HOME": str(folder / "home"),
            "DOCMILL_DATABASE_URL": database_url,
            "DOCMILL_REDIS_URL": redis_url,
            "DOCMILL_BACKEND": backend,
            "DOCMILL_LANES": lane,
            "DOCMILL_LOG_LEVEL": "info",
        }
        program = str(Path(python).absolute().with_name("docmill"))
        device = ["cpu"] if endpoint is None else ["remote", "--endpoint", endpoint]
        command = [program, "worker", "--device", *device]
        with (folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        installation = Fleet(folder, database_url, redis_url, worker.pid)
        try:
            yield installation
        finally:
            installation.close()
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
