"""A warm installation for the benchmarks: a store on PostgreSQL, a Redis, a worker that has its models loaded."""

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

LOOK_S = 0.5  # whoever waits must not be in the way: each look costs two processes a millisecond
LONGEST_S = 600.0


class Fleet:
    """Jobs are timed from the moment in which their source, a file, lies there to that in which all is stored: the
    time that the last shard's commit wrote, by the database's clock, which is this machine's."""

    def __init__(self, folder: Path, database_url: str, redis_url: str, worker: int) -> None:
        self._folder = folder
        self._worker = worker
        self._settings = load_settings(home=folder / "home", database_url=database_url, redis_url=redis_url)
        self._database = Database(database_url, kinds=KINDS)
        self._broker = Broker(redis_url)
        self._runs = 0
        self._busy_shares: list[float] = []

    def run(self, texts: Sequence[str], task: str, model: str, **options: Any) -> tuple[float, int]:
        """A job over these texts: its seconds, and the tokens that were written. Raises SystemExit for a failure."""
        self._runs += 1
        source = self._folder / f"{self._runs}.jsonl"
        source.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
        request = Request(source=str(source), task=task, model=model, options=kinds.options(task, **options))
        began = time.time()
        job = enqueue(self._database, self._broker, prepare(self._settings, request)).id
        self._wait(job)
        self._busy_shares += self._lately_busy()
        ended, written = self._written(job, len(texts))
        return ended - began, written

    @property
    def cache_dir(self) -> Path:
        """The folder of the worker's converted models and measurements of this machine."""
        return self._settings.cache_dir

    def close(self) -> None:
        self._broker.close()
        self._database.close()

    def _wait(self, job: int) -> None:
        """Wait until the job is read and has no open shard."""
        left = select(Shard.id).where(Shard.job_id == job, Shard.state.in_(OPEN_SHARDS)).limit(1)
        reading = select(Job.id).where(Job.id == job, Job.state == "ingesting")
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            with self._database.read() as transaction:
                if transaction.scalar(left) is None and transaction.scalar(reading) is None:
                    return
            time.sleep(LOOK_S)
        raise SystemExit(f"the job does not end: {self.log()[-2000:]}")

    def _written(self, job: int, documents: int) -> tuple[float, int]:
        """Return the time at which the last shard was done, and the number of tokens that were written."""
        last = func.max(Shard.finished_at)
        sums = (func.sum(Shard.n_contents), func.sum(Shard.n_failed), func.sum(Shard.tokens_out), last)
        with self._database.read() as transaction:
            done, failed, tokens, ended = transaction.execute(
                select(*sums).where(Shard.job_id == job, Shard.state == "done")
            ).one()
        if done != documents or failed:
            raise SystemExit(
                f"of {documents} texts {done} are done and {failed} of these failed: {self.log()[-2000:]}"
            )
        return float(ended or 0), int(tokens or 0)

    def log(self) -> str:
        return (self._folder / "worker.log").read_text()

    def worker_peak_mb(self) -> float:
        """The most memory that the worker's processes had, summed: the supervisor and its device processes."""
        return sum(peak_mb(pid) for pid in (self._worker, *_children(self._worker)))

    def busy_shares(self) -> list[float]:
        """By the workers' own word: the part of its time with texts in which a device computed, in the last minute
        of each run."""
        return [*self._busy_shares]

    def _lately_busy(self) -> list[float]:
        with self._database.read() as transaction:
            uses = transaction.scalars(select(Worker.time_use)).all()
        return [use["device"] / use["working"] for use in uses if use and use["working"]]


def _children(parent: int) -> list[int]:
    """The processes that it started and that live."""
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
    """An installation in a folder, which is made, as long as the block lasts; its worker is that of `python`.

    With ``cache`` that folder is its cache, which another may have filled before. With ``endpoint`` the worker has no
    device, and asks that server.
    """
    (folder / "home").mkdir(parents=True)
    if cache is not None:
        cache.mkdir(exist_ok=True)
        (folder / "home" / "cache").symlink_to(cache)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and databases go
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
        asked = ["cpu"] if endpoint is None else ["remote", "--endpoint", endpoint]
        command = [program, "worker", "--device", *asked]
        with (folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        one = Fleet(folder, database_url, redis_url, worker.pid)
        try:
            yield one
        finally:
            one.close()
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
